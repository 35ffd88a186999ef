// A go-control-plane to measure against: delta ADS on one port, GET /push on another that changes one assignment.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

type options struct {
	mode            string
	port, adminPort int
	workload        workload
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "go-control-plane peer:", err)
		os.Exit(1)
	}
}

func run() error {
	o, err := parse()
	if err != nil {
		return err
	}
	cache, err := newCache(o)
	if err != nil {
		return err
	}
	xds, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", o.port))
	if err != nil {
		return err
	}
	admin, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", o.adminPort))
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- newServer(cache).Serve(xds) }()
	go func() { failed <- http.Serve(admin, pushHandler(cache)) }()
	fmt.Println("ready")
	return <-failed
}

func parse() (*options, error) {
	o := &options{}
	flag.StringVar(&o.mode, "mode", "snapshot", "snapshot, tuned or linear")
	flag.IntVar(&o.port, "port", 18000, "port of delta ADS")
	flag.IntVar(&o.adminPort, "admin-port", 18001, "port of GET /push")
	flag.IntVar(&o.workload.clusters, "clusters", 100, "EDS clusters, and as many assignments")
	flag.IntVar(&o.workload.routes, "routes", 10, "route configurations")
	flag.IntVar(&o.workload.endpoints, "endpoints", 10, "endpoints of each assignment")
	flag.Parse()
	w := o.workload
	if w.clusters < 1 || w.endpoints < 1 || w.routes < 0 || w.routes > w.clusters {
		return nil, errors.New("-clusters and -endpoints must be at least 1, and -routes from 0 to -clusters")
	}
	return o, nil
}

func newCache(o *options) (pusher, error) {
	switch o.mode {
	case "snapshot":
		return newSnapshots(&o.workload)
	case "tuned":
		return newTuned(&o.workload)
	case "linear":
		return newLinears(&o.workload), nil
	}
	return nil, fmt.Errorf("-mode %q is none of snapshot, tuned, linear", o.mode)
}

func newServer(cache pusher) *grpc.Server {
	s := grpc.NewServer(
		grpc.MaxConcurrentStreams(1_000_000),
		grpc.MaxRecvMsgSize(64<<20),
		grpc.SharedWriteBuffer(true),
		// Fixed windows: otherwise every ACK would set off a ping that measures the bandwidth.
		grpc.InitialWindowSize(1<<20),
		grpc.InitialConnWindowSize(1<<20),
		// The timeout is TCP_USER_TIMEOUT as well, and a fleet that connects at once may not read for long.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 2 * time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	discovery.RegisterAggregatedDiscoveryServiceServer(s, server.NewServer(context.Background(), cache, nil))
	return s
}

func pushHandler(cache pusher) http.Handler {
	var one sync.Mutex
	mux := http.NewServeMux()
	mux.HandleFunc("GET /push", func(w http.ResponseWriter, _ *http.Request) {
		one.Lock()
		defer one.Unlock()
		if err := cache.push(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}
