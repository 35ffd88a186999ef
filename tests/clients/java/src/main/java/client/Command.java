package client;

import com.google.gson.annotations.SerializedName;
import java.util.Map;

/** One line on stdin; which fields count depends on {@code what}. */
final class Command {
  @SerializedName("do")
  String what;

  int connection;
  int call;
  String target;
  TlsFiles tls;
  String path;
  String kind;
  Map<String, String> metadata;

  @SerializedName("timeout_s")
  double timeoutS;

  String compress;
  int window;
  boolean paused;
  boolean unary;

  @SerializedName("keepalive_s")
  double keepaliveS;


  /** In base64. */
  String message;

  /** What a connection trusts, and shows if {@code cert} is given. */
  static final class TlsFiles {
    String ca;
    String cert;
    String key;
  }
}
