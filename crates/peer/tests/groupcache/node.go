// A node of golang/groupcache, for tests: it reads through to an HTTP origin and shows whom it takes for a key's owner.
//
// It prints its URL, reads the URLs of all peers from one line of stdin, and then prints "ready". Each further line takes the
// place of that list, and is answered in the same way. It ends when stdin does.
//
//	GET /get?key=K       the value, from wherever groupcache gets it
//	GET /owner?key=K     the URL of the peer that the ring names
//	/_groupcache/...     groupcache's own protocol, without a mux in front that would clean the paths
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strings"

	"github.com/golang/groupcache"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	origin := flag.String("origin", "", "URL of the origin; the escaped key is appended")
	name := flag.String("group", "g", "name of the group")
	flag.Parse()

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	self := "http://" + listener.Addr().String()
	fmt.Println(self)

	stdin := bufio.NewReader(os.Stdin)
	peers, err := stdin.ReadString('\n')
	if err != nil {
		log.Fatal("no peers on stdin: ", err)
	}
	pool := groupcache.NewHTTPPoolOpts(self, nil)
	// Go's default of two connections to a peer would open a new one for most gets of a load.
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 64
	pool.Set(strings.Fields(peers)...)
	group := groupcache.NewGroup(*name, 64<<20, groupcache.GetterFunc(
		func(ctx context.Context, key string, dest groupcache.Sink) error {
			return load(ctx, *origin+url.PathEscape(key), dest)
		}))

	go func() {
		for {
			peers, err := stdin.ReadString('\n')
			if err != nil {
				os.Exit(0)
			}
			pool.Set(strings.Fields(peers)...)
			fmt.Println("ready")
		}
	}()
	fmt.Println("ready")
	log.Fatal(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.URL.Query().Get("key")
		switch {
		case strings.HasPrefix(r.URL.Path, "/_groupcache/"):
			pool.ServeHTTP(w, r)
		case r.URL.Path == "/get":
			var value []byte
			if err := group.Get(r.Context(), key, groupcache.AllocatingByteSliceSink(&value)); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Write(value)
		case r.URL.Path == "/owner":
			io.WriteString(w, owner(pool, self, key))
		default:
			http.NotFound(w, r)
		}
	})))
}

// owner asks the pool itself, not a second ring that might differ. The URL stands in a private field of what it picks.
func owner(pool *groupcache.HTTPPool, self, key string) string {
	peer, remote := pool.PickPeer(key)
	if !remote {
		return self
	}
	base := reflect.ValueOf(peer).Elem().FieldByName("baseURL").String()
	return strings.TrimSuffix(base, "/_groupcache/")
}

func load(ctx context.Context, from string, dest groupcache.Sink) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the origin answered %s", response.Status)
	}
	return dest.SetBytes(body)
}
