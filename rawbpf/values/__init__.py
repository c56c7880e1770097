"""What an element is: bytes, a struct format, a ctypes type, a codec, or a C type that BTF describes."""
