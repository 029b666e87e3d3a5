"""One module per command of the command line: its flags, and what it does with the rooms below."""
