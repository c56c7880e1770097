"""Queue and Stack, many elements at once, what a map holds, waiting, and sharing."""
