"""BPF instructions, programs loaded into the kernel, and what they are attached to."""
