package main

import (
	"context"
	"fmt"
	"strconv"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// workload says how much is served, and holds what has been pushed so far.
type workload struct {
	clusters, routes, endpoints int
	version                     int
}

// next returns the number of the assignment that the next push changes, and the assignment.
func (w *workload) next() (int, types.Resource) {
	w.version++
	i := w.version % w.clusters
	return i, makeAssignment(i, w.endpoints, w.version)
}

// pusher is a cache with the resources of the workload in it.
type pusher interface {
	cache.Cache
	// push changes one assignment and returns when every watch was told.
	push() error
}

const group = "all"

// oneGroup gives all nodes the same snapshot, which is what lets a SnapshotCache share it.
type oneGroup struct{}

func (oneGroup) ID(*core.Node) string { return group }

// snapshots is a SnapshotCache used as its documentation says. Of a new snapshot only the endpoints have a new version;
// the clusters and routes are taken over as they are.
type snapshots struct {
	cache.SnapshotCache
	workload    *workload
	current     *cache.Snapshot
	assignments []types.Resource
}

func newSnapshots(w *workload) (*snapshots, error) {
	s := &snapshots{
		SnapshotCache: cache.NewSnapshotCache(false, oneGroup{}, nil),
		workload:      w,
		assignments:   makeAssignments(w.clusters, w.endpoints),
	}
	first, err := cache.NewSnapshot("0", map[resource.Type][]types.Resource{
		resource.ClusterType:  makeClusters(w.clusters),
		resource.EndpointType: s.assignments,
		resource.RouteType:    makeRoutes(w.routes),
	})
	if err != nil {
		return nil, fmt.Errorf("make the first snapshot: %w", err)
	}
	s.current = first
	return s, s.SetSnapshot(context.Background(), group, first)
}

func (s *snapshots) push() error {
	i, changed := s.workload.next()
	s.assignments[i] = changed
	next := &cache.Snapshot{Resources: s.current.Resources}
	next.Resources[types.Endpoint] = cache.NewResources(strconv.Itoa(s.workload.version), s.assignments)
	s.current = next
	return s.SetSnapshot(context.Background(), group, next)
}

// linears is a MuxCache over one LinearCache a type.
type linears struct {
	*cache.MuxCache
	workload  *workload
	endpoints *cache.LinearCache
}

func newLinears(w *workload) *linears {
	byType := map[string]*cache.LinearCache{
		resource.ClusterType:  newLinear(resource.ClusterType, makeClusters(w.clusters)),
		resource.EndpointType: newLinear(resource.EndpointType, makeAssignments(w.clusters, w.endpoints)),
		resource.RouteType:    newLinear(resource.RouteType, makeRoutes(w.routes)),
		resource.ListenerType: newLinear(resource.ListenerType, nil),
	}
	mux := &cache.MuxCache{
		Classify:      func(request *cache.Request) string { return request.GetTypeUrl() },
		ClassifyDelta: func(request *cache.DeltaRequest) string { return request.GetTypeUrl() },
		Caches:        make(map[string]cache.Cache, len(byType)),
	}
	for typeURL, linear := range byType {
		mux.Caches[typeURL] = linear
	}
	return &linears{MuxCache: mux, workload: w, endpoints: byType[resource.EndpointType]}
}

func newLinear(typeURL string, resources []types.Resource) *cache.LinearCache {
	byName := make(map[string]types.Resource, len(resources))
	for _, each := range resources {
		byName[cache.GetResourceName(each)] = each
	}
	return cache.NewLinearCache(typeURL, cache.WithInitialResources(byName))
}

func (l *linears) push() error {
	i, changed := l.workload.next()
	return l.endpoints.UpdateResource(clusterName(i), changed)
}
