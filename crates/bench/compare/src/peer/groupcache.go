// Both sides of golang/groupcache, to be compared with: a server that holds every key, and an asker that holds none.
// Each is told what to do by lines of text, as process.rs has it.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand"
	"net"
	"net/http"
	"os"
	"sort"
	"sync"
	"time"

	"github.com/golang/groupcache"
)

const groupName = "things"

// One in so many answers is compared whole, as keys.rs does.
const comparedPart = 64

// More than all keys and values.
const capacity = 2 << 30

var (
	keys     = flag.Int("keys", 0, "how many keys there are")
	valueLen = flag.Int("value-len", 0, "bytes of a value")
	address  = flag.String("ask", "", "whom to ask; serves if this is empty")
)

func main() {
	flag.Parse()
	if *address == "" {
		serve()
	} else {
		ask()
	}
}

func key(index int) string {
	return fmt.Sprintf("key:%012d", index)
}

func value(key string) []byte {
	return bytes.Repeat([]byte(key), *valueLen/len(key)+1)[:*valueLen]
}

func serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	pool := groupcache.NewHTTPPoolOpts("http://"+listener.Addr().String(), nil)
	group := groupcache.NewGroup(groupName, capacity, groupcache.GetterFunc(
		func(_ context.Context, key string, dest groupcache.Sink) error {
			return dest.SetBytes(value(key))
		}))
	for index := 0; index < *keys; index++ {
		var view groupcache.ByteView
		if err := group.Get(context.Background(), key(index), groupcache.ByteViewSink(&view)); err != nil {
			log.Fatal(err)
		}
	}
	go func() {
		log.Fatal(http.Serve(listener, pool))
	}()
	fmt.Println(listener.Addr(), os.Getpid())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(group.Stats.ServerRequests.Get())
	}
}

// An asker keeps nothing, as its group has no room: each get goes to the server.
func ask() {
	pool := groupcache.NewHTTPPoolOpts("http://asking", nil)
	// As many connections as there are callers stay open. Go's default of two would open one for nearly each get.
	transport := &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}
	pool.Transport = func(context.Context) http.RoundTripper { return transport }
	pool.Set("http://" + *address)
	group := groupcache.NewGroup(groupName, 0, groupcache.GetterFunc(
		func(context.Context, string, groupcache.Sink) error {
			return errors.New("the asking node is to load nothing")
		}))
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var callers, millis, seed int
		if _, err := fmt.Sscan(lines.Text(), &callers, &millis, &seed); err != nil {
			log.Fatal(err)
		}
		line, err := json.Marshal(turn(group, callers, time.Duration(millis)*time.Millisecond, int64(seed)))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(line))
	}
}

type measured struct {
	Gets    int     `json:"gets"`
	Wrong   int     `json:"wrong"`
	Seconds float64 `json:"seconds"`
	P50     float64 `json:"p50_us"`
	P99     float64 `json:"p99_us"`
	P999    float64 `json:"p999_us"`
}

func turn(group *groupcache.Group, callers int, duration time.Duration, seed int64) measured {
	var wait sync.WaitGroup
	latencies := make([][]time.Duration, callers)
	wrong := make([]int, callers)
	started := time.Now()
	for caller := 0; caller < callers; caller++ {
		wait.Add(1)
		go func(caller int) {
			defer wait.Done()
			random := rand.New(rand.NewSource(seed + int64(caller)))
			for from := time.Now(); from.Sub(started) < duration; {
				if !get(group, random.Intn(*keys)) {
					wrong[caller]++
				}
				now := time.Now()
				latencies[caller] = append(latencies[caller], now.Sub(from))
				from = now
			}
		}(caller)
	}
	wait.Wait()
	total := measured{Seconds: time.Since(started).Seconds()}
	var all []time.Duration
	for caller := range latencies {
		all = append(all, latencies[caller]...)
		total.Wrong += wrong[caller]
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	total.Gets = len(all)
	at := func(quantile float64) float64 {
		return float64(all[int(quantile*float64(len(all)-1))].Nanoseconds()) / 1000
	}
	total.P50, total.P99, total.P999 = at(0.5), at(0.99), at(0.999)
	return total
}

// Whether the right value came.
func get(group *groupcache.Group, index int) bool {
	key := key(index)
	var view groupcache.ByteView
	if err := group.Get(context.Background(), key, groupcache.ByteViewSink(&view)); err != nil {
		return false
	}
	if view.Len() != *valueLen || !view.Slice(0, len(key)).EqualString(key) {
		return false
	}
	return index%comparedPart != 0 || view.EqualBytes(value(key))
}
