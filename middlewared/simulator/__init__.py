"""The peers of the daemon, for demo and tests: Apple, Google, accounts, phones, a PBX."""
