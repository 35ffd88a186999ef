"""HTTP/2 for gRPC servers without I/O: frames, headers, flow control, messages."""
