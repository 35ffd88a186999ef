package bench;

import io.envoyproxy.controlplane.cache.VersionedResource;
import io.envoyproxy.controlplane.cache.v3.SimpleCache;
import io.envoyproxy.controlplane.cache.v3.Snapshot;
import io.envoyproxy.envoy.config.cluster.v3.Cluster;
import io.envoyproxy.envoy.config.endpoint.v3.ClusterLoadAssignment;
import io.envoyproxy.envoy.config.route.v3.RouteConfiguration;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.IntStream;

/** A cache in which all nodes are one group, and the pushes into it, each of which changes one assignment. */
final class Pushes {
  private static final String GROUP = "all";

  final SimpleCache<String> cache = new SimpleCache<>(node -> GROUP);
  private final Workload workload;
  private final boolean tuned;
  private final List<Cluster> clusters;
  private final List<RouteConfiguration> routes;
  private final List<VersionedResource<ClusterLoadAssignment>> assignments = new ArrayList<>();
  private Snapshot current;
  private int version;

  Pushes(Workload workload, boolean tuned) {
    this.workload = workload;
    this.tuned = tuned;
    clusters = IntStream.range(0, workload.clusters()).mapToObj(Workload::cluster).toList();
    routes = IntStream.range(0, workload.routes()).mapToObj(Workload::route).toList();
    for (int i = 0; i < workload.clusters(); i++) {
      assignments.add(VersionedResource.create(workload.assignment(i, 0)));
    }
    current = tuned ? SharingSnapshot.first(clusters, assignments, routes) : plainSnapshot();
    cache.setSnapshot(GROUP, current);
  }

  /** Changes one assignment; every open watch has been answered when it returns. */
  synchronized void push() {
    version++;
    int i = version % workload.clusters();
    assignments.set(i, VersionedResource.create(workload.assignment(i, version)));
    current = tuned
        ? ((SharingSnapshot) current).withEndpoints(assignments, Integer.toString(version))
        : plainSnapshot();
    cache.setSnapshot(GROUP, current);
  }

  /** A snapshot as the library's README makes it: of all resources, with one version for all types. */
  private Snapshot plainSnapshot() {
    List<ClusterLoadAssignment> endpoints = assignments.stream().map(VersionedResource::resource).toList();
    return Snapshot.create(clusters, endpoints, List.of(), routes, List.of(), Integer.toString(version));
  }
}
