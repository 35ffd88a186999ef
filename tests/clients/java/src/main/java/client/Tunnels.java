package client;

import io.grpc.CallOptions;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.netty.shaded.io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.buffer.ByteBufAllocator;
import io.grpc.netty.shaded.io.netty.handler.ssl.SslContextBuilder;
import io.grpc.netty.shaded.io.netty.util.ReferenceCountUtil;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import javax.net.ssl.SSLEngine;

/** The connections and calls, by the numbers that the test gave them. One thread uses it. */
final class Tunnels {
  private static final int MESSAGE_BYTES_MAX = 1 << 30;

  private final Consumer<Event> emit;
  private final Map<Integer, ManagedChannel> connections = new HashMap<>();
  private final Map<Integer, Tunnel> calls = new HashMap<>();

  Tunnels(Consumer<Event> emit) {
    this.emit = emit;
  }

  /** Loads the classes of a TLS handshake, which takes seconds where the processors are busy. */
  static void loadTls() throws IOException {
    SSLEngine engine = GrpcSslContexts.forClient().build().newEngine(ByteBufAllocator.DEFAULT);
    engine.beginHandshake();
    ByteBuffer hello = ByteBuffer.allocate(engine.getSession().getPacketBufferSize());
    engine.wrap(ByteBuffer.allocate(0), hello);
    ReferenceCountUtil.release(engine);
  }

  void run(Command command) throws IOException {
    switch (command.what) {
      case "connect" -> connect(command);
      case "disconnect" -> connections.get(command.connection).shutdownNow();
      case "open" -> open(command);
      case "write" -> calls.get(command.call).write(Base64.getDecoder().decode(command.message));
      case "half_close" -> calls.get(command.call).halfClose();
      case "resume" -> calls.get(command.call).resume();
      case "cancel" -> calls.get(command.call).cancel();
      default -> throw new IllegalArgumentException("no such command");
    }
  }

  private void connect(Command command) throws IOException {
    NettyChannelBuilder builder =
        NettyChannelBuilder.forTarget("dns:///" + command.target).maxInboundMessageSize(MESSAGE_BYTES_MAX);
    if (command.tls == null) {
      builder.usePlaintext();
    } else {
      SslContextBuilder context = GrpcSslContexts.forClient().trustManager(new File(command.tls.ca));
      if (command.tls.cert != null) {
        context.keyManager(new File(command.tls.cert), new File(command.tls.key));
      }
      builder.sslContext(context.build()).overrideAuthority("localhost");
    }
    if (command.window > 0) {
      builder.flowControlWindow(command.window); // without it Netty grows the window by itself
    }
    if (command.keepaliveS > 0) { // below 10 s grpc-java takes 10 s
      builder.keepAliveTime((long) (command.keepaliveS * 1e3), TimeUnit.MILLISECONDS);
    }
    ManagedChannel channel = builder.build();
    connections.put(command.connection, channel);
    tellState(command.connection, channel);
  }

  private void tellState(int number, ManagedChannel channel) {
    ConnectivityState state = channel.getState(false);
    Event event = Event.of("connection");
    event.connection = number;
    event.state = state.name();
    emit.accept(event);
    if (state != ConnectivityState.SHUTDOWN) {
      channel.notifyWhenStateChanged(state, () -> tellState(number, channel));
    }
  }

  private void open(Command command) {
    CallOptions options = CallOptions.DEFAULT;
    if (command.timeoutS > 0) {
      options = options.withDeadlineAfter((long) (command.timeoutS * 1e9), TimeUnit.NANOSECONDS);
    }
    if (command.compress != null && !command.compress.isEmpty()) {
      options = options.withCompression(command.compress);
    }
    Metadata metadata = new Metadata();
    if (command.metadata != null) {
      command.metadata.forEach(
          (name, value) -> metadata.put(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER), value));
    }
    Kind kind = Kind.valueOf(command.kind);
    ManagedChannel channel = connections.get(command.connection);
    Tunnel tunnel = new Tunnel(command.call, kind, channel.newCall(kind.method(command.path, command.unary), options), emit);
    calls.put(command.call, tunnel);
    tunnel.start(metadata, command.paused);
  }
}
