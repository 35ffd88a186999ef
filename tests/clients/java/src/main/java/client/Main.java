package client;

import com.google.gson.Gson;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;

/**
 * grpc-java (Netty) for the tests: does what JSON lines on its stdin say, and writes what comes of it as JSON lines on
 * its stdout. Requests and responses pass through Envoy's own Java types. It ends when its stdin does.
 */
public final class Main {
  private static final Gson GSON = new Gson();
  private static final PrintStream OUT = System.out;

  private Main() {}

  /** Serves stdin until it ends. */
  public static void main(String[] arguments) throws IOException {
    Tunnels tunnels = new Tunnels(Main::emit);
    Tunnels.loadTls();
    emit(Event.of("started"));
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      Command command = GSON.fromJson(line, Command.class);
      try {
        tunnels.run(command);
      } catch (IOException | RuntimeException error) {
        Event event = Event.of("failed");
        event.call = command.call;
        event.connection = command.connection;
        event.details = command.what + ": " + error;
        emit(event);
      }
    }
    System.exit(0); // Netty's threads would keep it alive
  }

  private static synchronized void emit(Event event) {
    OUT.println(GSON.toJson(event));
    OUT.flush();
  }
}
