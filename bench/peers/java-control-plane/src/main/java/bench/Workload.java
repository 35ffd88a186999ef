package bench;

import io.envoyproxy.envoy.config.cluster.v3.Cluster;
import io.envoyproxy.envoy.config.core.v3.AggregatedConfigSource;
import io.envoyproxy.envoy.config.core.v3.ApiVersion;
import io.envoyproxy.envoy.config.core.v3.ConfigSource;
import io.envoyproxy.envoy.config.endpoint.v3.ClusterLoadAssignment;
import io.envoyproxy.envoy.config.endpoint.v3.LbEndpoint;
import io.envoyproxy.envoy.config.endpoint.v3.LocalityLbEndpoints;
import io.envoyproxy.envoy.config.route.v3.Route;
import io.envoyproxy.envoy.config.route.v3.RouteAction;
import io.envoyproxy.envoy.config.route.v3.RouteConfiguration;
import io.envoyproxy.envoy.config.route.v3.RouteMatch;
import io.envoyproxy.envoy.config.route.v3.VirtualHost;

/** The resources of bench/serve.py, field by field: every server of the comparison serves the same. */
record Workload(int clusters, int routes, int endpoints) {
  Workload {
    if (clusters < 1 || endpoints < 1 || routes < 0 || routes > clusters) {
      throw new IllegalArgumentException(
          "--clusters and --endpoints must be at least 1, and --routes from 0 to --clusters");
    }
  }

  static Cluster cluster(int i) {
    ConfigSource ads = ConfigSource.newBuilder()
        .setResourceApiVersion(ApiVersion.V3)
        .setAds(AggregatedConfigSource.getDefaultInstance())
        .build();
    return Cluster.newBuilder()
        .setName("cluster-" + i)
        .setType(Cluster.DiscoveryType.EDS)
        .setEdsClusterConfig(Cluster.EdsClusterConfig.newBuilder().setEdsConfig(ads))
        .build();
  }

  ClusterLoadAssignment assignment(int i, int version) {
    LocalityLbEndpoints.Builder locality = LocalityLbEndpoints.newBuilder();
    for (int k = 0; k < endpoints; k++) {
      LbEndpoint.Builder member = LbEndpoint.newBuilder();
      member.getEndpointBuilder().getAddressBuilder().getSocketAddressBuilder()
          .setAddress("10." + i % 250 + "." + k % 250 + "." + version % 250)
          .setPortValue(1000 + version % 60000);
      locality.addLbEndpoints(member);
    }
    return ClusterLoadAssignment.newBuilder().setClusterName("cluster-" + i).addEndpoints(locality).build();
  }

  static RouteConfiguration route(int i) {
    Route all = Route.newBuilder()
        .setMatch(RouteMatch.newBuilder().setPrefix("/"))
        .setRoute(RouteAction.newBuilder().setCluster("cluster-" + i))
        .build();
    return RouteConfiguration.newBuilder()
        .setName("route-" + i)
        .addVirtualHosts(VirtualHost.newBuilder().setName("vh").addDomains("*").addRoutes(all))
        .build();
  }
}
