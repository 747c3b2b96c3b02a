"""One call, from the PBX's request to its outcome."""
