package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // registers the compressor
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const messageBytesMax = 1 << 30

// kinds are the messages of a method: a request and a response, each fresh.
var kinds = map[string]func() (proto.Message, proto.Message){
	"delta": func() (proto.Message, proto.Message) {
		return &discovery.DeltaDiscoveryRequest{}, &discovery.DeltaDiscoveryResponse{}
	},
	"sotw": func() (proto.Message, proto.Message) {
		return &discovery.DiscoveryRequest{}, &discovery.DiscoveryResponse{}
	},
	"health": func() (proto.Message, proto.Message) {
		return &grpc_health_v1.HealthCheckRequest{}, &grpc_health_v1.HealthCheckResponse{}
	},
}

type call struct {
	kind   func() (proto.Message, proto.Message)
	stream grpc.ClientStream
	cancel context.CancelFunc
	resume chan struct{}
}

// tunnels are the connections and calls by the numbers that the test gave them. One goroutine uses it.
type tunnels struct {
	connections map[int]*grpc.ClientConn
	calls       map[int]*call
}

func newTunnels() *tunnels {
	return &tunnels{connections: map[int]*grpc.ClientConn{}, calls: map[int]*call{}}
}

func (t *tunnels) do(command Command) error {
	if command.Do == "connect" {
		return t.connect(command)
	}
	if command.Do == "disconnect" {
		return t.connections[command.Connection].Close()
	}
	if command.Do == "open" {
		return t.open(command)
	}
	one := t.calls[command.Call]
	if one == nil {
		return fmt.Errorf("no call %d", command.Call)
	}
	switch command.Do {
	case "write":
		return one.write(command.Message)
	case "half_close":
		return one.stream.CloseSend()
	case "resume":
		close(one.resume)
		return nil
	case "cancel":
		one.cancel()
		return nil
	}
	return errors.New("no such command")
}

func (t *tunnels) connect(command Command) error {
	secured, err := transportCredentials(command.TLS)
	if err != nil {
		return err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(secured),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax), grpc.MaxCallSendMsgSize(messageBytesMax)),
	}
	if command.Window > 0 { // below 64 KiB grpc-go takes its own default
		options = append(options, grpc.WithInitialWindowSize(command.Window), grpc.WithInitialConnWindowSize(command.Window))
	}
	if command.KeepaliveS > 0 { // below 10 s grpc-go takes 10 s
		every := time.Duration(command.KeepaliveS * float64(time.Second))
		options = append(options, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: every, Timeout: every}))
	}
	connection, err := grpc.NewClient("passthrough:///"+command.Target, options...)
	if err != nil {
		return err
	}
	t.connections[command.Connection] = connection
	go tellStates(command.Connection, connection)
	return nil
}

func transportCredentials(files *TLSFiles) (credentials.TransportCredentials, error) {
	if files == nil {
		return insecure.NewCredentials(), nil
	}
	authority, err := os.ReadFile(files.CA)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}
	config.RootCAs.AppendCertsFromPEM(authority)
	if files.Cert != "" {
		pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config), nil
}

func tellStates(number int, connection *grpc.ClientConn) {
	for state := connection.GetState(); ; state = connection.GetState() {
		emit(Event{Event: "connection", Connection: number, State: state.String()})
		if state == connectivity.Shutdown || !connection.WaitForStateChange(context.Background(), state) {
			return
		}
	}
}

func (t *tunnels) open(command Command) error {
	kind := kinds[command.Kind]
	if kind == nil {
		return fmt.Errorf("no kind %q", command.Kind)
	}
	var ctx context.Context
	var cancel context.CancelFunc
	if command.TimeoutS > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), time.Duration(command.TimeoutS*float64(time.Second)))
	} else {
		ctx, cancel = context.WithCancel(context.Background())
	}
	ctx = metadata.NewOutgoingContext(ctx, metadata.New(command.Metadata))
	var options []grpc.CallOption
	if command.Compress != "" {
		options = append(options, grpc.UseCompressor(command.Compress))
	}
	if command.Subtype != "" {
		options = append(options, grpc.CallContentSubtype(command.Subtype))
	}
	shape := &grpc.StreamDesc{ClientStreams: !command.Unary, ServerStreams: !command.Unary}
	stream, err := t.connections[command.Connection].NewStream(ctx, shape, command.Path, options...)
	if err != nil {
		cancel()
		tellEnd(command.Call, nil, err)
		t.calls[command.Call] = &call{kind: kind, stream: ended{err}, cancel: func() {}, resume: make(chan struct{})}
		return nil
	}
	one := &call{kind: kind, stream: stream, cancel: cancel, resume: make(chan struct{})}
	if !command.Paused {
		close(one.resume)
	}
	t.calls[command.Call] = one
	go one.read(command.Call)
	return nil
}

func (c *call) write(encoded []byte) error {
	request, _ := c.kind()
	if err := proto.Unmarshal(encoded, request); err != nil {
		return err
	}
	// io.EOF: the stream is over, and reading it says how.
	if err := c.stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (c *call) read(number int) {
	defer c.cancel()
	<-c.resume
	for {
		_, response := c.kind()
		if err := c.stream.RecvMsg(response); err != nil {
			tellEnd(number, c.stream, err)
			return
		}
		encoded, err := proto.Marshal(response)
		if err != nil {
			panic(err)
		}
		emit(Event{Event: "message", Call: number, Message: encoded})
	}
}

func tellEnd(number int, stream grpc.ClientStream, err error) {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	said := status.Convert(err)
	event := Event{Event: "ended", Call: number, Code: uint32(said.Code()), Details: said.Message()}
	if stream != nil {
		event.Headers, _ = stream.Header()
		event.Trailers = stream.Trailer()
	}
	emit(event)
}

// ended is a stream that could not be opened: what is written to it is dropped, as a closed stream's is.
type ended struct{ err error }

func (ended) Header() (metadata.MD, error) { return nil, nil }
func (ended) Trailer() metadata.MD         { return nil }
func (ended) CloseSend() error             { return nil }
func (ended) Context() context.Context     { return context.Background() }
func (ended) SendMsg(any) error            { return io.EOF }
func (e ended) RecvMsg(any) error          { return e.err }
