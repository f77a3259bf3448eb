import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import redis.clients.jedis.ClusterPipeline;
import redis.clients.jedis.CommandArguments;
import redis.clients.jedis.CommandObject;
import redis.clients.jedis.BuilderFactory;
import redis.clients.jedis.Connection;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.Protocol;
import redis.clients.jedis.RedisClusterClient;
import redis.clients.jedis.RedisProtocol;
import redis.clients.jedis.Response;
import redis.clients.jedis.params.SetParams;

/** Jedis in cluster mode. */
final class JedisTest implements Script.Client {
    private final RedisClusterClient client;
    private final boolean fromReplicas;

    private JedisTest(HostAndPort seed, RedisProtocol protocol, boolean fromReplicas) {
        DefaultJedisClientConfig.Builder config =
                DefaultJedisClientConfig.builder().protocol(protocol).timeoutMillis(5000);
        if (fromReplicas) {
            config.readOnlyForRedisClusterReplicas();
        }
        this.fromReplicas = fromReplicas;
        this.client = RedisClusterClient.builder()
                .nodes(Set.of(seed))
                .clientConfig(config.build())
                .maxAttempts(10)
                .maxTotalRetriesDuration(Duration.ofSeconds(10))
                .build();
    }

    @Override
    public String set(byte[] key, byte[] value, boolean ifAbsent, long expireMillis) {
        SetParams params = new SetParams();
        if (ifAbsent) {
            params.nx();
        }
        if (expireMillis > 0) {
            params.px(expireMillis);
        }
        return client.set(key, value, params);
    }

    @Override
    public byte[] get(byte[] key) {
        if (fromReplicas) {
            CommandArguments words = new CommandArguments(Protocol.Command.GET).key(key);
            return client.executeCommandToReplica(new CommandObject<>(words, BuilderFactory.BINARY));
        }
        return client.get(key);
    }

    @Override
    public long strlen(byte[] key) {
        return client.strlen(key);
    }

    @Override
    public long incrBy(byte[] key, long by) {
        return client.incrBy(key, by);
    }

    @Override
    public long pttl(byte[] key) {
        return client.pttl(key);
    }

    @Override
    public long exists(byte[]... keys) {
        return client.exists(keys);
    }

    @Override
    public long del(byte[]... keys) {
        return client.del(keys);
    }

    @Override
    public List<byte[]> mget(byte[]... keys) {
        return client.mget(keys);
    }

    @Override
    public void setAll(List<byte[]> keys) {
        try (ClusterPipeline pipeline = client.pipelined()) {
            List<Response<String>> replies = new ArrayList<>();
            for (byte[] key : keys) {
                replies.add(pipeline.set(key, key));
            }
            pipeline.sync();
            replies.forEach(Response::get);
        }
    }

    @Override
    public List<byte[]> getAll(List<byte[]> keys) {
        try (ClusterPipeline pipeline = client.pipelined()) {
            List<Response<byte[]>> replies = new ArrayList<>();
            for (byte[] key : keys) {
                replies.add(pipeline.get(key));
            }
            pipeline.sync();
            return replies.stream().map(Response::get).toList();
        }
    }

    @Override
    public void mgetAtOneNode(byte[] one, byte[] other) {
        try (Connection node = client.getConnectionFromSlot(0)) {
            node.sendCommand(Protocol.Command.MGET, one, other);
            node.getOne();
        }
    }

    @Override
    public Set<Long> primaries() {
        Set<Long> ports = new HashSet<>();
        for (int slot = 0; slot < 16384; slot += 16) {
            try (Connection node = client.getConnectionFromSlot(slot)) {
                ports.add((long) node.getHostAndPort().getPort());
            }
        }
        return ports;
    }

    @Override
    public List<?> clusterSlots() {
        try (Connection node = client.getConnectionFromSlot(0)) {
            node.sendCommand(Protocol.Command.CLUSTER, "SLOTS");
            return (List<?>) node.getOne();
        }
    }

    @Override
    public boolean serverHas(String command) {
        try (Connection node = client.getConnectionFromSlot(0)) {
            node.sendCommand(Protocol.Command.COMMAND, "INFO", command);
            return ((List<?>) node.getOne()).get(0) != null;
        }
    }

    @Override
    public Set<String> scan(String pattern) {
        Set<String> found = new HashSet<>();
        var pages = client.scanIteration(50, pattern);
        while (!pages.isIterationCompleted()) {
            found.addAll(pages.nextBatch().getResult());
        }
        return found;
    }

    @Override
    public long dbsize() {
        return client.dbSize();
    }

    @Override
    public void close() {
        client.close();
    }

    public static void main(String[] arguments) {
        HostAndPort seed = new HostAndPort(arguments[0], Integer.parseInt(arguments[1]));
        for (RedisProtocol protocol : RedisProtocol.values()) {
            try (JedisTest client = new JedisTest(seed, protocol, false)) {
                new Script("jedis:" + protocol).commands(client);
            }
        }
        Script script = new Script("jedis");
        JedisTest client = new JedisTest(seed, RedisProtocol.RESP2, false);
        try (JedisTest reader = new JedisTest(seed, RedisProtocol.RESP2, true)) {
            script.replicaReads(client, reader);
        }
        script.allPrimaries(client);
        script.failover(client);
    }
}
