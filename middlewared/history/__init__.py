"""What became of each call and of each device: the answer to "why didn't my phone ring?"."""
