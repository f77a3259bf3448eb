import io.lettuce.core.KeyScanCursor;
import io.lettuce.core.LettuceFutures;
import io.lettuce.core.ReadFrom;
import io.lettuce.core.RedisFuture;
import io.lettuce.core.RedisURI;
import io.lettuce.core.ScanArgs;
import io.lettuce.core.SetArgs;
import io.lettuce.core.TimeoutOptions;
import io.lettuce.core.cluster.ClusterClientOptions;
import io.lettuce.core.cluster.ClusterTopologyRefreshOptions;
import io.lettuce.core.cluster.RedisClusterClient;
import io.lettuce.core.cluster.api.StatefulRedisClusterConnection;
import io.lettuce.core.cluster.api.sync.RedisAdvancedClusterCommands;
import io.lettuce.core.cluster.models.partitions.RedisClusterNode;
import io.lettuce.core.codec.ByteArrayCodec;
import io.lettuce.core.protocol.ProtocolVersion;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/** Lettuce in cluster mode. */
final class LettuceTest implements Script.Client {
    private final RedisClusterClient client;
    private final StatefulRedisClusterConnection<byte[], byte[]> connection;
    private final RedisAdvancedClusterCommands<byte[], byte[]> sync;

    private LettuceTest(RedisURI seed, ProtocolVersion protocol, ReadFrom readFrom) {
        client = RedisClusterClient.create(seed);
        // Without a refresh lettuce keeps the map that it began with.
        ClusterTopologyRefreshOptions refresh = ClusterTopologyRefreshOptions.builder()
                .enableAdaptiveRefreshTrigger(ClusterTopologyRefreshOptions.RefreshTrigger.values())
                .adaptiveRefreshTriggersTimeout(Duration.ofMillis(500))
                .enablePeriodicRefresh(Duration.ofSeconds(5))
                .build();
        client.setOptions(ClusterClientOptions.builder()
                .protocolVersion(protocol)
                .topologyRefreshOptions(refresh)
                .timeoutOptions(TimeoutOptions.enabled(Duration.ofSeconds(3)))
                .build());
        connection = client.connect(ByteArrayCodec.INSTANCE);
        connection.setReadFrom(readFrom);
        sync = connection.sync();
    }

    @Override
    public String set(byte[] key, byte[] value, boolean ifAbsent, long expireMillis) {
        SetArgs arguments = new SetArgs();
        if (ifAbsent) {
            arguments.nx();
        }
        if (expireMillis > 0) {
            arguments.px(expireMillis);
        }
        return sync.set(key, value, arguments);
    }

    @Override
    public byte[] get(byte[] key) {
        return sync.get(key);
    }

    @Override
    public long strlen(byte[] key) {
        return sync.strlen(key);
    }

    @Override
    public long incrBy(byte[] key, long by) {
        return sync.incrby(key, by);
    }

    @Override
    public long pttl(byte[] key) {
        return sync.pttl(key);
    }

    @Override
    public long exists(byte[]... keys) {
        return sync.exists(keys);
    }

    @Override
    public long del(byte[]... keys) {
        return sync.del(keys);
    }

    @Override
    public List<byte[]> mget(byte[]... keys) {
        return sync.mget(keys).stream().map(pair -> pair.getValueOrElse(null)).toList();
    }

    @Override
    public void setAll(List<byte[]> keys) {
        // Asynchronous calls travel as pipelines.
        RedisFuture<?>[] replies =
                keys.stream().map(key -> connection.async().set(key, key)).toArray(RedisFuture[]::new);
        if (!LettuceFutures.awaitAll(10, TimeUnit.SECONDS, replies)) {
            throw new IllegalStateException("the pipeline was not answered");
        }
    }

    @Override
    public List<byte[]> getAll(List<byte[]> keys) {
        List<RedisFuture<byte[]>> replies =
                keys.stream().map(key -> connection.async().get(key)).toList();
        return replies.stream()
                .map(reply -> LettuceFutures.awaitOrCancel(reply, 10, TimeUnit.SECONDS))
                .toList();
    }

    private String anyNode() {
        return client.getPartitions().getPartition(0).getNodeId();
    }

    @Override
    public void mgetAtOneNode(byte[] one, byte[] other) {
        sync.getConnection(anyNode()).mget(one, other);
    }

    @Override
    public Set<Long> primaries() {
        return client.getPartitions().getPartitions().stream()
                .filter(node -> node.is(RedisClusterNode.NodeFlag.UPSTREAM))
                .map(node -> (long) node.getUri().getPort())
                .collect(Collectors.toSet());
    }

    @Override
    public List<?> clusterSlots() {
        return sync.getConnection(anyNode()).clusterSlots();
    }

    @Override
    public boolean serverHas(String command) {
        return sync.getConnection(anyNode()).commandInfo(command).get(0) instanceof List<?>;
    }

    @Override
    public Set<String> scan(String pattern) {
        Set<String> found = new HashSet<>();
        ScanArgs arguments = ScanArgs.Builder.matches(pattern).limit(50);
        KeyScanCursor<byte[]> cursor = sync.scan(arguments);
        while (true) {
            cursor.getKeys().forEach(key -> found.add(new String(key, StandardCharsets.ISO_8859_1)));
            if (cursor.isFinished()) {
                return found;
            }
            cursor = sync.scan(cursor, arguments);
        }
    }

    @Override
    public long dbsize() {
        return sync.dbsize();
    }

    @Override
    public void close() {
        connection.close();
        client.shutdown(0, 1, TimeUnit.SECONDS);
    }

    public static void main(String[] arguments) {
        RedisURI seed = RedisURI.create(arguments[0], Integer.parseInt(arguments[1]));
        for (ProtocolVersion protocol : ProtocolVersion.values()) {
            try (LettuceTest client = new LettuceTest(seed, protocol, ReadFrom.UPSTREAM)) {
                new Script("lettuce:" + protocol).commands(client);
            }
        }
        Script script = new Script("lettuce");
        LettuceTest client = new LettuceTest(seed, ProtocolVersion.RESP3, ReadFrom.UPSTREAM);
        // CLUSTER NODES, which lettuce reads, can show a node as a primary or as a replica
        // and not as both: to lettuce there are no replicas.
        try (LettuceTest reader = new LettuceTest(seed, ProtocolVersion.RESP3, ReadFrom.REPLICA_PREFERRED)) {
            script.replicaReads(client, reader);
        }
        script.allPrimaries(client);
        script.failover(client);
    }
}
