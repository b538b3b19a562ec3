"""Runs and data seen from outside: status, logs, reports."""
