"""What ``check --online`` asks of the outside, one module for each thing that is asked."""
