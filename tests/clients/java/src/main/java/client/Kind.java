package client;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import io.envoyproxy.envoy.service.discovery.v3.DeltaDiscoveryRequest;
import io.envoyproxy.envoy.service.discovery.v3.DeltaDiscoveryResponse;
import io.envoyproxy.envoy.service.discovery.v3.DiscoveryRequest;
import io.envoyproxy.envoy.service.discovery.v3.DiscoveryResponse;
import io.grpc.MethodDescriptor;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse;
import io.grpc.protobuf.ProtoUtils;

/** What messages a method has, by the name that the test uses. */
enum Kind {
  delta(DeltaDiscoveryRequest.getDefaultInstance(), DeltaDiscoveryResponse.getDefaultInstance()),
  sotw(DiscoveryRequest.getDefaultInstance(), DiscoveryResponse.getDefaultInstance()),
  health(HealthCheckRequest.getDefaultInstance(), HealthCheckResponse.getDefaultInstance());

  private final Message request;
  private final Message response;

  Kind(Message request, Message response) {
    this.request = request;
    this.response = response;
  }

  Message read(byte[] encoded) throws InvalidProtocolBufferException {
    return request.getParserForType().parseFrom(encoded);
  }

  MethodDescriptor<Message, Message> method(String path, boolean unary) {
    return MethodDescriptor.<Message, Message>newBuilder()
        .setType(unary ? MethodDescriptor.MethodType.UNARY : MethodDescriptor.MethodType.BIDI_STREAMING)
        .setFullMethodName(path.substring(1))
        .setRequestMarshaller(ProtoUtils.marshaller(request))
        .setResponseMarshaller(ProtoUtils.marshaller(response))
        .build();
  }
}
