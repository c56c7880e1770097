"""The guides, in Markdown: `rawbpf help` lists them, `rawbpf help TOPIC` shows one."""
