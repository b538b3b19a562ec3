"""Every corpus as blocks of aligned text, whatever it is stored in."""
