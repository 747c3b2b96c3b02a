"""Where a phone's answer finds the call that waits for it."""
