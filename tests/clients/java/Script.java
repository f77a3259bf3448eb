import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.BooleanSupplier;

/** What both Java clients are asked to do: see ../README.md. */
final class Script {
    /** A cluster client, with bytes for keys and values. */
    interface Client extends AutoCloseable {
        /** "OK", or null where the condition did not hold. */
        String set(byte[] key, byte[] value, boolean ifAbsent, long expireMillis);

        byte[] get(byte[] key);

        long strlen(byte[] key);

        long incrBy(byte[] key, long by);

        long pttl(byte[] key);

        long exists(byte[]... keys);

        long del(byte[]... keys);

        List<byte[]> mget(byte[]... keys);

        /** Sets every key to itself, in one pipeline. */
        void setAll(List<byte[]> keys);

        List<byte[]> getAll(List<byte[]> keys);

        /** MGET at one node, as it is. */
        void mgetAtOneNode(byte[] one, byte[] other);

        /** The ports of the nodes that the client takes for primaries. */
        Set<Long> primaries();

        /** What CLUSTER SLOTS answers. */
        List<?> clusterSlots();

        boolean serverHas(String command);

        /** The keys that match, of every primary. */
        Set<String> scan(String pattern);

        long dbsize();

        @Override
        void close();
    }

    private static final int TRIES = 60;
    private static final long PAUSE_MS = 100;

    private final String name;

    Script(String name) {
        this.name = name;
    }

    private static AssertionError fail(String text) {
        System.out.println(text);
        System.exit(1);
        return new AssertionError(text);
    }

    private static void check(String what, Object got, Object wanted) {
        boolean same = got instanceof byte[] bytes && wanted instanceof byte[] others
                ? Arrays.equals(bytes, others)
                : java.util.Objects.equals(got, wanted);
        if (!same) {
            throw fail(what + ": got " + got + ", wanted " + wanted);
        }
    }

    private static void pause() {
        try {
            Thread.sleep(PAUSE_MS);
        } catch (InterruptedException interrupted) {
            throw new IllegalStateException(interrupted);
        }
    }

    /** Looks until there is something true: what comes is not yet there at once. */
    private static void until(String what, BooleanSupplier look) {
        for (int tried = 0; tried < TRIES; tried++) {
            if (look.getAsBoolean()) {
                return;
            }
            pause();
        }
        throw fail(what + ": not within " + TRIES + " looks");
    }

    private static void refused(String what, Runnable call, String words) {
        try {
            call.run();
        } catch (RuntimeException error) {
            check(what + ": " + error, String.valueOf(error.getMessage()).contains(words), true);
            return;
        }
        throw fail(what + ": wanted the error " + words);
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.ISO_8859_1);
    }

    private byte[] key(String rest) {
        return bytes(name + ":" + rest);
    }

    /** Everything that needs no failure. */
    void commands(Client client) {
        byte[] key = key("a");
        check("SET", client.set(key, bytes("1"), false, 0), "OK");
        check("GET", client.get(key), bytes("1"));
        check("GET of nothing", client.get(key("none")), null);
        check("SET NX", client.set(key, bytes("2"), true, 0), null);
        check("STRLEN", client.strlen(key), 1L);
        byte[] all = new byte[256];
        for (int at = 0; at < all.length; at++) {
            all[at] = (byte) at;
        }
        byte[] binary = key("\0\u00ff\r\n$");
        check("SET of bytes", client.set(binary, all, false, 0), "OK");
        check("GET of bytes", client.get(binary), all);
        check("SET of nothing", client.set(key, new byte[0], false, 0), "OK");
        check("GET of nothing", client.get(key), new byte[0]);
        byte[] large = new byte[1 << 20];
        Arrays.fill(large, (byte) 'x');
        check("SET of 1 MiB", client.set(key, large, false, 0), "OK");
        check("GET of 1 MiB", client.get(key), large);

        byte[] counter = key("counter");
        client.del(counter);
        check("INCRBY", client.incrBy(counter, 42), 42L);
        check("INCRBY", client.incrBy(counter, -1), 41L);
        client.set(counter, bytes("no number"), false, 0);
        refused("INCRBY of text", () -> client.incrBy(counter, 1), "not an integer");

        client.set(key, bytes("soon gone"), false, 300);
        long left = client.pttl(key);
        check("PTTL " + left, left > 0 && left <= 300, true);
        until("expiry", () -> client.get(key) == null);

        List<byte[]> piped = new ArrayList<>();
        for (int number = 0; number < 300; number++) {
            piped.add(key("pipe:" + number));
        }
        client.setAll(piped);
        List<byte[]> got = client.getAll(piped);
        for (int at = 0; at < piped.size(); at++) {
            check("pipeline", got.get(at), piped.get(at));
        }

        byte[] first = key("{t}:1");
        byte[] second = key("{t}:2");
        byte[] third = key("{t}:3");
        client.set(first, first, false, 0);
        client.set(second, second, false, 0);
        List<byte[]> values = client.mget(first, third, second);
        check("MGET", values.get(0), first);
        check("MGET", values.get(1), null);
        check("MGET", values.get(2), second);
        check("EXISTS", client.exists(first, second, third), 2L);
        check("DEL", client.del(first, second, third), 2L);
        refused("keys of several slots", () -> client.mgetAtOneNode(bytes("a"), bytes("b")), "CROSSSLOT");
    }

    /** From replicas, which may lag behind. */
    void replicaReads(Client writer, Client reader) {
        for (int number = 0; number < 100; number++) {
            byte[] key = key("replica:" + number);
            writer.set(key, key, false, 0);
            until("a replica's read", () -> Arrays.equals(reader.get(key), key));
        }
    }

    /** DBSIZE and SCAN at every node that the client takes for a primary. */
    void allPrimaries(Client client) {
        Set<Long> owners = new HashSet<>();
        for (Object range : client.clusterSlots()) {
            owners.add((Long) ((List<?>) ((List<?>) range).get(2)).get(1));
        }
        check("primaries", client.primaries().containsAll(owners), true);
        if (!client.serverHas("scan")) {
            System.out.println("the server has no SCAN yet");
            return;
        }
        Set<String> mine = new HashSet<>();
        for (int number = 0; number < 500; number++) {
            client.set(key("scan:" + number), bytes("1"), false, 0);
            mine.add(name + ":scan:" + number);
        }
        check("SCAN", client.scan(name + ":scan:*"), mine);
        check("DBSIZE", client.dbsize() >= mine.size(), true);
    }

    /** Writes go on while a node is killed. */
    void failover(Client client) {
        AtomicBoolean killed = new AtomicBoolean();
        Thread listener = new Thread(() -> {
            try {
                String line = new BufferedReader(new InputStreamReader(System.in)).readLine();
                killed.set("killed".equals(line));
            } catch (java.io.IOException error) {
                System.out.println(error);
            }
        });
        listener.setDaemon(true);
        listener.start();
        Map<String, Integer> seen = new TreeMap<>();
        int most = 0;
        int written = 0;
        for (int after = 0; after < 700; written++) {
            if (written == 300) {
                System.out.println("kill");
            }
            if (killed.get()) {
                after++;
            }
            byte[] key = key("run:" + written);
            for (int attempt = 1;; attempt++) {
                most = Math.max(most, attempt);
                try {
                    check("SET", client.set(key, key, false, 0), "OK");
                    break;
                } catch (RuntimeException error) {
                    String words = error.getClass().getSimpleName() + ": " + error.getMessage();
                    seen.merge(words.substring(0, Math.min(words.length(), 80)), 1, Integer::sum);
                    if (attempt == TRIES) {
                        throw fail("write " + written + " failed " + TRIES + " times: " + seen);
                    }
                    pause();
                }
            }
        }
        for (int number = 0; number < written; number++) {
            byte[] key = key("run:" + number);
            until("read back " + number, () -> {
                try {
                    return Arrays.equals(client.get(key), key);
                } catch (RuntimeException error) {
                    return false;
                }
            });
        }
        System.out.println(written + " writes acknowledged and read back, one tried " + most + " times at most");
        seen.forEach((words, count) -> System.out.println("seen: " + count + " x " + words));
        System.out.println("passed");
        System.exit(0);
    }
}
