"""Every corpus as blocks of aligned text, whatever it lies in."""
