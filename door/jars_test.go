package door

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// jarFile is what the controller in these tests serves for every jar.
func jarFile(path string, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte(fmt.Appendf(nil, "%-32.32s", path))).Read(b) // never fails
	return b
}

func TestManyAgentsPullOneJar(t *testing.T) {
	const agents = 450
	s := newStage(t, Config{Default: "main"})
	s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 1, Epoch: "e1"})
	want := jarFile("agent.jar", 256<<10)
	var pulled atomic.Int32
	arrived := make(chan struct{})
	s.jenkins = func(rw http.ResponseWriter, r *http.Request) {
		pulled.Add(1)
		<-arrived
		rw.Header()["Content-Type"] = nil // none
		rw.Header().Set("Content-Length", strconv.Itoa(len(want)))
		rw.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		_, _ = rw.Write(want) // the agents see it
	}
	var wg sync.WaitGroup
	for range agents {
		wg.Go(func() {
			resp, body := s.fetch("/jnlpJars/agent.jar")
			if resp.StatusCode != http.StatusOK || body != string(want) {
				t.Errorf("%s with %d bytes", resp.Status, len(body))
			}
		})
	}
	waitFor(t, "everybody to wait", func() bool { return s.waiting() == agents })
	close(arrived)
	wg.Wait()
	if n := pulled.Load(); n != 1 {
		t.Errorf("%d agents pulled it %d times", agents, n)
	}
	if asked, pulled := value(s.door.m.jars), value(s.door.m.pulled); asked != agents || pulled != 1 {
		t.Errorf("counted are %v jars, %v pulled; want %d and 1", asked, pulled, agents)
	}

	resp := s.get("/jnlpJars/agent.jar")
	wantHeader(t, resp, "Content-Length", strconv.Itoa(len(want)))
	wantHeader(t, resp, "Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
	wantHeader(t, resp, "Content-Type", "application/java-archive")
	if resp := s.get("/jnlpJars/agent.jar", "If-Modified-Since: Mon, 02 Jan 2006 15:04:05 GMT"); resp.StatusCode != http.StatusNotModified {
		t.Errorf("%s to who has it; want 304", resp.Status)
	}

	s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 1, Epoch: "e2"})
	s.get("/jnlpJars/agent.jar")
	if n := pulled.Load(); n != 2 {
		t.Errorf("pulled %d times after the controller's files may have changed; want 2", n)
	}
}

// waiting counts who waits for a jar.
func (s *stage) waiting() int {
	j := &s.door.web.jars
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for _, p := range j.underway {
		n += p.waiting
	}
	return n
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("still waiting for %s", what)
		case <-tick.C:
		}
	}
}

func TestJarsThatAreNotKept(t *testing.T) {
	for _, test := range []struct {
		desc   string
		epoch  string
		cache  int64
		status int
		size   int
		length bool // told beforehand
	}{
		{"no epoch", "", 0, 200, 1000, true},
		{"switched off", "e", -1, 200, 1000, true},
		{"not found", "e", 0, 404, 10, true},
		{"larger than the cache", "e", 1000, 200, 1001, true},
		{"larger, of unknown length", "e", 1000, 200, 500_000, false},
	} {
		t.Run(test.desc, func(t *testing.T) {
			s := newStage(t, Config{Default: "main", JarCache: test.cache})
			s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 1, Epoch: test.epoch})
			var pulled atomic.Int32
			s.jenkins = func(rw http.ResponseWriter, r *http.Request) {
				pulled.Add(1)
				if test.length {
					rw.Header().Set("Content-Length", strconv.Itoa(test.size))
				}
				rw.WriteHeader(test.status)
				_, _ = rw.Write(jarFile(r.URL.Path, test.size)) // the test sees it
			}
			for range 2 {
				resp, body := s.fetch("/jnlpJars/x.jar")
				if resp.StatusCode != test.status || body != string(jarFile("/jnlpJars/x.jar", test.size)) {
					t.Fatalf("%s with %d bytes; want %d with %d", resp.Status, len(body), test.status, test.size)
				}
			}
			if pulled.Load() < 2 {
				t.Error("it was kept")
			}
			if size := s.door.web.jars.size; size != 0 {
				t.Errorf("%d bytes are kept", size)
			}
		})
	}
}

func TestJarsKeptAreBounded(t *testing.T) {
	s := newStage(t, Config{Default: "main", JarCache: 10_000})
	s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 1, Epoch: "e"})
	s.jenkins = func(rw http.ResponseWriter, r *http.Request) { _, _ = rw.Write(jarFile(r.URL.Path, 3000)) }
	for i := range 20 {
		s.get(fmt.Sprintf("/jnlpJars/%d.jar", i))
		if size := s.door.web.jars.size; size > 10_000 {
			t.Fatalf("%d bytes are kept, above the limit", size)
		}
	}
	before := s.asked.Load()
	s.get("/jnlpJars/19.jar")
	s.get("/jnlpJars/18.jar")
	if s.asked.Load() != before {
		t.Error("the last used were dropped")
	}
}

func TestPullGoesOnForWhoIsLeft(t *testing.T) {
	var j jars
	j.limit = 1000
	begun, finish := make(chan struct{}), make(chan struct{})
	fetch := func(ctx context.Context) (*jar, error) {
		close(begun)
		select {
		case <-finish:
			return &jar{status: 200, body: []byte("jar")}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	key := jarKey{"main", "e", "/jnlpJars/a.jar"}
	first, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := j.get(first, key, fetch); err == nil {
			t.Error("who left got it")
		}
	})
	<-begun
	wg.Go(func() {
		one, err := j.get(t.Context(), key, fetch)
		if err != nil || !bytes.Equal(one.body, []byte("jar")) {
			t.Errorf("%v, %v; want the jar that the first began", one, err)
		}
	})
	waitFor(t, "the second", func() bool { j.mu.Lock(); defer j.mu.Unlock(); return j.underway[key].waiting == 2 })
	leave()
	waitFor(t, "the first to leave", func() bool { j.mu.Lock(); defer j.mu.Unlock(); return j.underway[key].waiting == 1 })
	close(finish)
	wg.Wait()
}

func TestPullEndsWithTheLastWhoWaits(t *testing.T) {
	var j jars
	j.limit = 1000
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan struct{})
	_, err := j.get(ctx, jarKey{"main", "e", "/a"}, func(ctx context.Context) (*jar, error) {
		leave()
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	})
	<-ended
	if err == nil || len(j.underway) != 0 {
		t.Fatalf("%v, %d under way; want an error and none", err, len(j.underway))
	}
}

func TestJarCutShortIsPulledAgain(t *testing.T) {
	s := newStage(t, Config{Default: "main"})
	s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 1, Epoch: "e"})
	s.jenkins = func(rw http.ResponseWriter, r *http.Request) {
		want := jarFile(r.URL.Path, 100_000)
		rw.Header().Set("Content-Length", strconv.Itoa(len(want)))
		if s.asked.Load() == 1 {
			_, _ = rw.Write(want[:50_000])
			panic(http.ErrAbortHandler)
		}
		_, _ = rw.Write(want) // the test sees it
	}
	resp, body := s.fetch("/jnlpJars/agent.jar")
	if resp.StatusCode != http.StatusOK || body != string(jarFile("/jnlpJars/agent.jar", 100_000)) {
		t.Fatalf("%s with %d bytes", resp.Status, len(body))
	}
}

func TestControllerThatIsAwayHoldsOnlyItsOwnJars(t *testing.T) {
	s := newStage(t, Config{Controllers: []string{"away", "here"}})
	for _, controller := range []string{"away", "here"} {
		s.known(controller, &linkv1.Jenkins{Path: "/" + controller + "/", AgentPort: 1, Epoch: "e"})
	}
	back := make(chan struct{})
	s.jenkins = func(rw http.ResponseWriter, r *http.Request) {
		rw.WriteHeader(http.StatusOK)
		if strings.HasPrefix(r.URL.Path, "/away/") {
			_ = http.NewResponseController(rw).Flush() // the head is there, and then nothing
			<-back
		}
		_, _ = io.WriteString(rw, "jar")
	}
	var wg sync.WaitGroup
	for i := range 3 * pulls {
		wg.Go(func() { s.get(fmt.Sprintf("/away/jnlpJars/%d.jar", i)) })
	}
	waitFor(t, "them to wait", func() bool { return s.waiting() == 3*pulls })
	if _, body := s.fetch("/here/jnlpJars/agent.jar"); body != "jar" {
		t.Errorf("%q", body)
	}
	close(back)
	wg.Wait()
}

func TestJarCutShortIsNoJar(t *testing.T) {
	s := newStage(t, Config{Default: "main", JarCache: 1000, Hold: time.Millisecond})
	s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 1, Epoch: "e"})
	s.jenkins = func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", "2000")
		_, _ = io.WriteString(rw, strings.Repeat("a", 1500)) // then the connection is closed
		panic(http.ErrAbortHandler)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"jnlpJars/a.jar", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return // as good
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); resp.StatusCode == http.StatusOK && err == nil {
		t.Fatalf("a jar cut short passes for one of %d bytes", len(body))
	}
}
