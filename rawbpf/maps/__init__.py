"""Queue and Stack, maps with keys, the ring buffer; many elements at once, what a map holds, waiting, sharing."""
