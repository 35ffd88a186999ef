package client;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;

/** One call: bytes in, and what the server says as events out. */
final class Tunnel extends ClientCall.Listener<Message> {
  private final int number;
  private final Kind kind;
  private final ClientCall<Message, Message> call;
  private final Consumer<Event> emit;
  private Metadata headers = new Metadata();

  Tunnel(int number, Kind kind, ClientCall<Message, Message> call, Consumer<Event> emit) {
    this.number = number;
    this.kind = kind;
    this.call = call;
    this.emit = emit;
  }

  void start(Metadata metadata, boolean paused) {
    call.start(this, metadata);
    if (!paused) {
      call.request(1);
    }
  }

  void write(byte[] encoded) throws InvalidProtocolBufferException {
    call.sendMessage(kind.read(encoded));
  }

  void halfClose() {
    call.halfClose();
  }

  void resume() {
    call.request(1);
  }

  void cancel() {
    call.cancel("by the test", null);
  }

  @Override
  public void onHeaders(Metadata said) {
    headers = said;
  }

  @Override
  public void onMessage(Message message) {
    Event event = Event.of("message");
    event.call = number;
    event.message = Base64.getEncoder().encodeToString(message.toByteArray());
    emit.accept(event);
    call.request(1);
  }

  @Override
  public void onClose(Status status, Metadata trailers) {
    Event event = Event.of("ended");
    event.call = number;
    event.code = status.getCode().value();
    event.details = status.getDescription() == null ? "" : status.getDescription();
    event.headers = values(headers);
    event.trailers = values(trailers);
    emit.accept(event);
  }

  private static Map<String, List<String>> values(Metadata metadata) {
    Map<String, List<String>> found = new HashMap<>();
    for (String name : metadata.keys()) {
      if (!name.endsWith(Metadata.BINARY_HEADER_SUFFIX)) {
        List<String> values = new ArrayList<>();
        metadata.getAll(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER)).forEach(values::add);
        found.put(name, values);
      }
    }
    return found;
  }
}
