"""Data sets: the embedded set of shapes and the redirection of a config to another folder."""
