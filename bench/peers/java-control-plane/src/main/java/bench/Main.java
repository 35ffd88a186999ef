package bench;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.envoyproxy.controlplane.server.DefaultExecutorGroup;
import io.envoyproxy.controlplane.server.V3DiscoveryServer;
import io.envoyproxy.controlplane.server.serializer.CachedProtoResourcesSerializer;
import io.envoyproxy.controlplane.server.serializer.DefaultProtoResourcesSerializer;
import io.grpc.Server;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** A java-control-plane to measure against: delta ADS on one port, GET /push on another that changes one assignment. */
public final class Main {
  private Main() {}

  /** Serves until it is ended. */
  public static void main(String[] arguments) throws IOException, InterruptedException {
    Map<String, String> options = parse(arguments);
    boolean tuned = switch (options.get("mode")) {
      case "plain" -> false;
      case "tuned" -> true;
      default -> throw new IllegalArgumentException("--mode " + options.get("mode") + " is neither plain nor tuned");
    };
    Workload workload =
        new Workload(number(options, "clusters"), number(options, "routes"), number(options, "endpoints"));
    Pushes pushes = new Pushes(workload, tuned);
    Server xds = xdsServer(pushes, number(options, "port"), tuned).start();
    admin(pushes, number(options, "admin-port")).start();
    System.out.println("ready");
    xds.awaitTermination();
  }

  private static Server xdsServer(Pushes pushes, int port, boolean tuned) {
    V3DiscoveryServer discovery = new V3DiscoveryServer(
        List.of(),
        pushes.cache,
        new DefaultExecutorGroup(),
        tuned ? new CachedProtoResourcesSerializer() : new DefaultProtoResourcesSerializer());
    NettyServerBuilder builder = NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", port))
        .addService(discovery.getAggregatedDiscoveryServiceImpl())
        .withOption(ChannelOption.SO_BACKLOG, 4096)
        .maxConcurrentCallsPerConnection(1_000_000)
        .maxInboundMessageSize(64 << 20)
        // A fixed window: otherwise every ACK could set off a ping that measures the bandwidth.
        .flowControlWindow(1 << 20)
        .keepAliveTime(60, TimeUnit.SECONDS)
        .keepAliveTimeout(20, TimeUnit.SECONDS)
        .permitKeepAliveTime(1, TimeUnit.SECONDS)
        .permitKeepAliveWithoutCalls(true);
    return (tuned ? builder.directExecutor() : builder).build();
  }

  private static HttpServer admin(Pushes pushes, int port) throws IOException {
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
    server.createContext("/push", exchange -> answerPush(pushes, exchange));
    return server;
  }

  private static void answerPush(Pushes pushes, HttpExchange exchange) throws IOException {
    try (exchange) {
      pushes.push();
      exchange.sendResponseHeaders(200, -1);
    } catch (RuntimeException error) {
      error.printStackTrace();
      exchange.sendResponseHeaders(500, -1);
    }
  }

  private static Map<String, String> parse(String[] arguments) {
    Map<String, String> options = new HashMap<>(Map.of(
        "mode", "tuned", "port", "18000", "admin-port", "18001", "clusters", "100", "routes", "10", "endpoints", "10"));
    for (String argument : arguments) {
      String[] parts = argument.replaceFirst("^--", "").split("=", 2);
      if (parts.length < 2 || !options.containsKey(parts[0])) {
        throw new IllegalArgumentException(argument + " is not --NAME=VALUE with a NAME of " + options.keySet());
      }
      options.put(parts[0], parts[1]);
    }
    return options;
  }

  private static int number(Map<String, String> options, String name) {
    return Integer.parseInt(options.get(name));
  }
}
