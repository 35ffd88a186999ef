package main

import (
	"context"
	"maps"
	"strconv"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// tuned is a SnapshotCache with a ResourceSnapshot of our own, which is what the interface is there for. The library's
// hashes every resource of each new snapshot and copies the map of all resources for each stream; this one hashes the
// resource that changed and hands out the maps it has.
type tuned struct {
	cache.SnapshotCache
	workload *workload
	current  *sharedSnapshot
}

type sharedSnapshot struct {
	cache.ResourceSnapshot // what only state of the world asks for
	byType                 map[string]sharedType
}

type sharedType struct {
	version   string
	resources map[string]types.Resource
	versions  map[string]string
}

func (s *sharedSnapshot) GetVersion(typeURL string) string { return s.byType[typeURL].version }
func (s *sharedSnapshot) GetResources(typeURL string) map[string]types.Resource {
	return s.byType[typeURL].resources
}
func (s *sharedSnapshot) GetVersionMap(typeURL string) map[string]string {
	return s.byType[typeURL].versions
}
func (s *sharedSnapshot) ConstructVersionMap() error { return nil }

func newTuned(w *workload) (*tuned, error) {
	t := &tuned{SnapshotCache: cache.NewSnapshotCache(false, oneGroup{}, nil), workload: w}
	t.current = &sharedSnapshot{ResourceSnapshot: &cache.Snapshot{}, byType: map[string]sharedType{}}
	for typeURL, resources := range map[string][]types.Resource{
		resource.ClusterType:  makeClusters(w.clusters),
		resource.EndpointType: makeAssignments(w.clusters, w.endpoints),
		resource.RouteType:    makeRoutes(w.routes),
	} {
		shared := sharedType{version: "0", resources: map[string]types.Resource{}, versions: map[string]string{}}
		for _, each := range resources {
			if err := shared.put(each); err != nil {
				return nil, err
			}
		}
		t.current.byType[typeURL] = shared
	}
	return t, t.SetSnapshot(context.Background(), group, t.current)
}

func (s sharedType) put(changed types.Resource) error {
	encoded, err := cache.MarshalResource(changed)
	if err != nil {
		return err
	}
	name := cache.GetResourceName(changed)
	s.resources[name], s.versions[name] = changed, cache.HashResource(encoded)
	return nil
}

func (t *tuned) push() error {
	_, changed := t.workload.next()
	before := t.current.byType[resource.EndpointType]
	after := sharedType{
		version:   strconv.Itoa(t.workload.version),
		resources: maps.Clone(before.resources),
		versions:  maps.Clone(before.versions),
	}
	if err := after.put(changed); err != nil {
		return err
	}
	next := &sharedSnapshot{ResourceSnapshot: t.current.ResourceSnapshot, byType: maps.Clone(t.current.byType)}
	next.byType[resource.EndpointType] = after
	t.current = next
	return t.SetSnapshot(context.Background(), group, next)
}
