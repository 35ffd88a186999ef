"""HTTP/2 for gRPC without I/O: frames, headers, connections, messages. It knows no sockets, no clock and no xDS."""
