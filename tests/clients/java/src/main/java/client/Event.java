package client;

import java.util.List;
import java.util.Map;

/** One line on stdout; fields that are null are left out. */
final class Event {
  String event;
  int connection;
  int call;

  /** In base64. */
  String message;

  int code;
  String details;
  Map<String, List<String>> headers;
  Map<String, List<String>> trailers;
  String state;

  static Event of(String name) {
    Event made = new Event();
    made.event = name;
    return made;
  }
}
