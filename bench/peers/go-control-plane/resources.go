package main

import (
	"fmt"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
)

// The resources are those of bench/serve.py, field by field: every server of the comparison serves the same.

func clusterName(i int) string { return fmt.Sprintf("cluster-%d", i) }

func makeCluster(i int) *cluster.Cluster {
	return &cluster.Cluster{
		Name:                 clusterName(i),
		ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
		EdsClusterConfig: &cluster.Cluster_EdsClusterConfig{
			EdsConfig: &core.ConfigSource{
				ResourceApiVersion:    core.ApiVersion_V3,
				ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
			},
		},
	}
}

func makeAssignment(i, endpoints, version int) *endpoint.ClusterLoadAssignment {
	members := make([]*endpoint.LbEndpoint, endpoints)
	for k := range members {
		members[k] = &endpoint.LbEndpoint{HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{
			Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
				Address:       fmt.Sprintf("10.%d.%d.%d", i%250, k%250, version%250),
				PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(1000 + version%60000)},
			}}},
		}}}
	}
	return &endpoint.ClusterLoadAssignment{
		ClusterName: clusterName(i),
		Endpoints:   []*endpoint.LocalityLbEndpoints{{LbEndpoints: members}},
	}
}

func makeRoute(i int) *route.RouteConfiguration {
	return &route.RouteConfiguration{
		Name: fmt.Sprintf("route-%d", i),
		VirtualHosts: []*route.VirtualHost{{
			Name:    "vh",
			Domains: []string{"*"},
			Routes: []*route.Route{{
				Match: &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}},
				Action: &route.Route_Route{Route: &route.RouteAction{
					ClusterSpecifier: &route.RouteAction_Cluster{Cluster: clusterName(i)},
				}},
			}},
		}},
	}
}

func makeClusters(count int) []types.Resource {
	all := make([]types.Resource, count)
	for i := range all {
		all[i] = makeCluster(i)
	}
	return all
}

func makeAssignments(count, endpoints int) []types.Resource {
	all := make([]types.Resource, count)
	for i := range all {
		all[i] = makeAssignment(i, endpoints, 0)
	}
	return all
}

func makeRoutes(count int) []types.Resource {
	all := make([]types.Resource, count)
	for i := range all {
		all[i] = makeRoute(i)
	}
	return all
}
