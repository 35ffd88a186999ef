package bench;

import io.envoyproxy.controlplane.cache.Resources.ResourceType;
import io.envoyproxy.controlplane.cache.SnapshotResources;
import io.envoyproxy.controlplane.cache.VersionedResource;
import io.envoyproxy.controlplane.cache.v3.Snapshot;
import io.envoyproxy.envoy.config.cluster.v3.Cluster;
import io.envoyproxy.envoy.config.endpoint.v3.ClusterLoadAssignment;
import io.envoyproxy.envoy.config.listener.v3.Listener;
import io.envoyproxy.envoy.config.route.v3.RouteConfiguration;
import io.envoyproxy.envoy.extensions.transport_sockets.tls.v3.Secret;
import java.util.Collection;
import java.util.List;
import java.util.Map;

/**
 * A snapshot that takes over, from the one before, what did not change. The library's own {@code Snapshot.create} hashes
 * every resource anew each time; here a resource is hashed once, when it enters, and each type has a version of its own.
 */
final class SharingSnapshot extends Snapshot {
  private final SnapshotResources<Cluster> clusters;
  private final SnapshotResources<ClusterLoadAssignment> endpoints;
  private final SnapshotResources<Listener> listeners = SnapshotResources.create(List.of(), "0");
  private final SnapshotResources<RouteConfiguration> routes;
  private final SnapshotResources<Secret> secrets = SnapshotResources.create(List.of(), "0");

  private SharingSnapshot(
      SnapshotResources<Cluster> clusters,
      SnapshotResources<ClusterLoadAssignment> endpoints,
      SnapshotResources<RouteConfiguration> routes) {
    this.clusters = clusters;
    this.endpoints = endpoints;
    this.routes = routes;
  }

  static SharingSnapshot first(
      List<Cluster> clusters,
      Collection<VersionedResource<ClusterLoadAssignment>> endpoints,
      List<RouteConfiguration> routes) {
    return new SharingSnapshot(
        SnapshotResources.create(clusters, "0"),
        SnapshotResources.create(endpoints, "0"),
        SnapshotResources.create(routes, "0"));
  }

  SharingSnapshot withEndpoints(Collection<VersionedResource<ClusterLoadAssignment>> changed, String version) {
    return new SharingSnapshot(clusters, SnapshotResources.create(changed, version), routes);
  }

  // The library's two declarations of this method differ in their generics; only a raw type overrides both.
  @Override
  @SuppressWarnings({"rawtypes", "unchecked"})
  public Map versionedResources(ResourceType type) {
    return super.versionedResources(type);
  }

  @Override
  public SnapshotResources<Cluster> clusters() {
    return clusters;
  }

  @Override
  public SnapshotResources<ClusterLoadAssignment> endpoints() {
    return endpoints;
  }

  @Override
  public SnapshotResources<Listener> listeners() {
    return listeners;
  }

  @Override
  public SnapshotResources<RouteConfiguration> routes() {
    return routes;
  }

  @Override
  public SnapshotResources<Secret> secrets() {
    return secrets;
  }
}
