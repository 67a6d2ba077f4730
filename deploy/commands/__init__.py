"""The commands of `lamer`, one a module. Importing them loads nothing heavy: a command imports what it runs."""
