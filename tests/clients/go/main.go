// go-redis in cluster mode: see ../README.md.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	tries = 60
	pause = 100 * time.Millisecond
)

var ctx = context.Background()

func fail(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
	os.Exit(1)
}

func check(what string, got, wanted any) {
	if !reflect.DeepEqual(got, wanted) {
		fail("%s: got %#v, wanted %#v", what, got, wanted)
	}
}

// must returns the value of a call that is to succeed.
func must[T any](value T, err error) T {
	if err != nil {
		fail("%v", err)
	}
	return value
}

func refused(what string, err error, words string) {
	if err == nil || !strings.Contains(err.Error(), words) {
		fail("%s: got %v, wanted the error %s", what, err, words)
	}
}

// until looks until there is something true: what comes is not yet there at once.
func until(what string, look func() bool) {
	for range tries {
		if look() {
			return
		}
		time.Sleep(pause)
	}
	fail("%s: not within %d looks", what, tries)
}

// commands is everything that needs no failure.
func commands(client *redis.ClusterClient, name string) {
	key := "go:" + name + ":a"
	check("SET", must(client.Set(ctx, key, "1", 0).Result()), "OK")
	check("GET", must(client.Get(ctx, key).Result()), "1")
	check("GET of nothing", client.Get(ctx, key+":none").Err(), redis.Nil)
	check("SET NX", client.SetArgs(ctx, key, "2", redis.SetArgs{Mode: "NX"}).Err(), redis.Nil)
	old := client.SetArgs(ctx, key, "3", redis.SetArgs{Mode: "XX", Get: true})
	check("SET XX GET", must(old.Result()), "1")
	check("SETNX", must(client.Do(ctx, "SETNX", "go:"+name+":nx", "1").Int()), 1)
	check("STRLEN", must(client.StrLen(ctx, key).Result()), int64(1))
	check("TYPE", must(client.Type(ctx, key).Result()), "string")
	all := make([]byte, 256)
	for at := range all {
		all[at] = byte(at)
	}
	binary := "go:\x00\xff\r\n$" + name
	check("SET of bytes", must(client.Set(ctx, binary, all, 0).Result()), "OK")
	check("GET of bytes", must(client.Get(ctx, binary).Bytes()), all)
	large := strings.Repeat("x", 1<<20)
	check("SET of 1 MiB", must(client.Set(ctx, key, large, 0).Result()), "OK")
	check("GET of 1 MiB", must(client.Get(ctx, key).Result()), large)

	counter := "go:" + name + ":counter"
	must(client.Del(ctx, counter).Result())
	check("INCR", must(client.Incr(ctx, counter).Result()), int64(1))
	check("INCRBY", must(client.IncrBy(ctx, counter, 41).Result()), int64(42))
	check("DECR", must(client.Decr(ctx, counter).Result()), int64(41))
	must(client.Set(ctx, counter, "no number", 0).Result())
	refused("INCR of text", client.Incr(ctx, counter).Err(), "not an integer")

	must(client.Set(ctx, key, "soon gone", 300*time.Millisecond).Result())
	left := must(client.PTTL(ctx, key).Result())
	check("PTTL", left > 0 && left <= 300*time.Millisecond, true)
	until("expiry", func() bool { return client.Get(ctx, key).Err() == redis.Nil })
	must(client.Set(ctx, key, "stays", 1000*time.Second).Result())
	check("TTL", must(client.TTL(ctx, key).Result()) > 900*time.Second, true)

	pipe := client.Pipeline()
	for number := range 300 {
		pipe.Set(ctx, fmt.Sprintf("go:%s:pipe:%d", name, number), number, 0)
	}
	must(pipe.Exec(ctx))
	for number := range 300 {
		pipe.Get(ctx, fmt.Sprintf("go:%s:pipe:%d", name, number))
	}
	for number, got := range must(pipe.Exec(ctx)) {
		check("pipeline", must(got.(*redis.StringCmd).Result()), fmt.Sprint(number))
	}

	tag := func(number int) string { return fmt.Sprintf("go:{%s}:%d", name, number) }
	for number := range 5 {
		must(client.Set(ctx, tag(number), number, 0).Result())
	}
	got := must(client.MGet(ctx, tag(0), tag(4), tag(9)).Result())
	check("MGET", got, []any{"0", "4", nil})
	check("EXISTS", must(client.Exists(ctx, tag(0), tag(1), tag(9)).Result()), int64(2))
	check("DEL", must(client.Del(ctx, tag(0), tag(1)).Result()), int64(2))
	node := must(client.MasterForKey(ctx, "a"))
	refused("keys of several slots", node.MGet(ctx, "a", "b").Err(), "CROSSSLOT")
}

// replicaReads is from replicas alone, which may lag behind.
func replicaReads(client *redis.ClusterClient, seed string) {
	reader := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{seed}, ReadOnly: true})
	defer reader.Close()
	for number := range 100 {
		key := fmt.Sprintf("go:replica:%d", number)
		must(client.Set(ctx, key, number, 0).Result())
		until("a replica's "+key, func() bool {
			return reader.Get(ctx, key).Val() == fmt.Sprint(number)
		})
	}
}

// allPrimaries is DBSIZE and SCAN at every node that the client takes for a primary.
func allPrimaries(client *redis.ClusterClient) {
	var lock sync.Mutex
	primaries, owners := map[string]bool{}, map[string]bool{}
	check("primaries", client.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error {
		lock.Lock()
		defer lock.Unlock()
		primaries[node.Options().Addr] = true
		return nil
	}), nil)
	for _, slots := range must(client.ClusterSlots(ctx).Result()) {
		owners[slots.Nodes[0].Addr] = true
	}
	check("primaries", primaries, owners)
	info := must(client.Do(ctx, "COMMAND", "INFO", "scan").Slice())
	if len(info) == 0 || info[0] == nil {
		fmt.Println("the server has no SCAN yet")
		return
	}
	for number := range 500 {
		must(client.Set(ctx, fmt.Sprintf("go:scan:%d", number), 1, 0).Result())
	}
	found := map[string]bool{}
	check("SCAN", client.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		keys := node.Scan(ctx, 0, "go:scan:*", 50).Iterator()
		for keys.Next(ctx) {
			lock.Lock()
			found[keys.Val()] = true
			lock.Unlock()
		}
		return keys.Err()
	}), nil)
	check("SCAN", len(found), 500)
	check("DBSIZE", must(client.DBSize(ctx).Result()) >= 500, true)
}

// failover writes on while a node is killed.
func failover(client *redis.ClusterClient) {
	var killed atomic.Bool
	go func() {
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		killed.Store(strings.TrimSpace(line) == "killed")
	}()
	seen, most := map[string]int{}, 0
	written, after := 0, 0
	for ; after < 700; written++ {
		if written == 300 {
			fmt.Println("kill")
		}
		if killed.Load() {
			after++
		}
		for attempt := 1; ; attempt++ {
			err := client.Set(ctx, fmt.Sprintf("go:run:%d", written), written, 0).Err()
			most = max(most, attempt)
			if err == nil {
				break
			}
			if attempt == tries {
				fail("write %d failed %d times: %v", written, tries, err)
			}
			kind := err
			for next := errors.Unwrap(kind); next != nil; next = errors.Unwrap(kind) {
				kind = next
			}
			seen[kind.Error()]++
			time.Sleep(pause)
		}
	}
	for number := range written {
		until("read back", func() bool {
			return client.Get(ctx, fmt.Sprintf("go:run:%d", number)).Val() == fmt.Sprint(number)
		})
	}
	fmt.Printf("%d writes acknowledged and read back, one tried %d times at most\n", written, most)
	for kind, count := range seen {
		fmt.Printf("seen: %d x %s\n", count, kind)
	}
}

func main() {
	seed := os.Args[1] + ":" + os.Args[2]
	for _, protocol := range []int{2, 3} {
		client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{seed}, Protocol: protocol})
		commands(client, fmt.Sprint(protocol))
		client.Close()
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{seed}})
	replicaReads(client, seed)
	allPrimaries(client)
	failover(client)
	fmt.Println("passed")
}
