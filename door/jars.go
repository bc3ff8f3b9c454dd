package door

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/seeded"
)

// largestJar is the most that one kept jar may have; stock ones have one to
// four MiB. A larger one is passed on to each who asks, and never kept.
const largestJar = 16 << 20

// pulls is how many bodies are read at once from one controller; others wait.
const pulls = 2

// jars keeps what the controllers serve below jnlpJars/, so that a fleet that
// starts at once does not pull one jar for each agent through Kafka.
//
// Beyond what is kept it holds, for each controller, at most pulls jars of
// largestJar bytes.
type jars struct {
	limit int64 // bytes of bodies kept, the least used go first; negative: none, but who asks at once still shares one

	mu       sync.Mutex // guards the following
	kept     map[jarKey]*list.Element
	use      list.List // of *jar, the last used in front
	size     int64
	underway map[jarKey]*pull
	turns    map[string]chan struct{} // one for each controller
}

// A jarKey names one file of one run of a controller.
type jarKey struct{ controller, epoch, path string }

// A jar is a controller's whole answer. It is not changed any more.
type jar struct {
	key      jarKey
	status   int
	header   http.Header
	modified time.Time
	body     []byte
	large    bool // it has more than may be kept, and is not here
}

// A pull is a jar on its way, awaited by all who want it. It goes on as long as
// one of them is left.
type pull struct {
	waiting int // guarded by jars.mu
	cancel  context.CancelFunc
	done    chan struct{} // closed when the following are set
	jar     *jar
	err     error
}

// get returns a jar: one that is kept, or one that fetch brings. However many
// ask, it is fetched once.
func (j *jars) get(ctx context.Context, key jarKey, fetch func(context.Context) (*jar, error)) (*jar, error) {
	j.mu.Lock()
	if e, ok := j.kept[key]; ok {
		j.use.MoveToFront(e)
		j.mu.Unlock()
		return e.Value.(*jar), nil
	}
	p := j.underway[key]
	if p == nil {
		p = j.beginLocked(key, fetch)
	}
	p.waiting++
	j.mu.Unlock()

	select {
	case <-p.done:
		return p.jar, p.err
	case <-ctx.Done():
	}
	j.mu.Lock()
	p.waiting--
	last := p.waiting == 0
	if last && j.underway[key] == p {
		delete(j.underway, key) // who comes now begins anew
	}
	j.mu.Unlock()
	if last {
		p.cancel()
		<-p.done
	}
	return nil, context.Cause(ctx)
}

func (j *jars) beginLocked(key jarKey, fetch func(context.Context) (*jar, error)) *pull {
	if j.kept == nil {
		j.kept, j.underway = make(map[jarKey]*list.Element), make(map[jarKey]*pull)
		j.turns = make(map[string]chan struct{})
	}
	ctx, cancel := context.WithCancel(context.Background()) // no single request's: the last that leaves ends it
	p := &pull{cancel: cancel, done: make(chan struct{})}
	j.underway[key] = p
	go func() {
		defer close(p.done)
		defer cancel()
		p.jar, p.err = fetch(ctx)
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.underway[key] == p {
			delete(j.underway, key)
		}
		if p.err == nil {
			j.keepLocked(p.jar, key)
		}
	}()
	return p
}

// turn waits until a jar may be taken into memory.
func (j *jars) turn(ctx context.Context, controller string) (done func(), err error) {
	j.mu.Lock()
	turns := j.turns[controller]
	if turns == nil {
		turns = make(chan struct{}, pulls)
		j.turns[controller] = turns
	}
	j.mu.Unlock()
	select {
	case turns <- struct{}{}:
		return func() { <-turns }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// keepLocked keeps a jar if it may be kept, and lets go of others for it:
// those of the controller's earlier runs, and those used least.
func (j *jars) keepLocked(one *jar, key jarKey) {
	size := int64(len(one.body))
	if key.epoch == "" || one.status != http.StatusOK || size > j.limit {
		return
	}
	one.key = key
	for e := j.use.Front(); e != nil; {
		next := e.Next()
		if k := e.Value.(*jar).key; k == key || k.controller == key.controller && k.epoch != key.epoch {
			j.dropLocked(e)
		}
		e = next
	}
	j.kept[key] = j.use.PushFront(one)
	j.size += size
	const most = 256 // files, however small
	for j.size > j.limit || j.use.Len() > most {
		j.dropLocked(j.use.Back())
	}
}

func (j *jars) dropLocked(e *list.Element) {
	one := j.use.Remove(e).(*jar)
	delete(j.kept, one.key)
	j.size -= int64(len(one.body))
}

// jar answers with a file of the controller's.
func (w *web) jar(rw http.ResponseWriter, r *http.Request, p page, jenkins *linkv1.Jenkins) {
	w.door.m.jars.Inc()
	key := jarKey{p.controller, jenkins.GetEpoch(), rootPath(jenkins) + p.path}
	if seeded.On(seeded.JarCacheStale) {
		key.epoch = "any"
	}
	one, err := w.jars.get(r.Context(), key, func(ctx context.Context) (*jar, error) {
		return w.pull(ctx, key)
	})
	switch {
	case err != nil:
		w.refuse(rw, r, err)
	case one.large:
		w.proxy.ServeHTTP(rw, r.WithContext(context.WithValue(r.Context(), pageKey{}, proxied{p, jenkins, r})))
	default:
		h := rw.Header()
		maps.Copy(h, one.header)
		if one.status == http.StatusOK {
			http.ServeContent(rw, r, "", one.modified, bytes.NewReader(one.body))
			return
		}
		rw.WriteHeader(one.status)
		_, _ = rw.Write(one.body)
	}
}

// pull fetches a jar from its controller, and begins again when it was cut
// short. What went wrong in the end is told to all who wait, and not kept.
// Nothing of a single agent's request is in this one.
func (w *web) pull(ctx context.Context, key jarKey) (*jar, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, w.door.cfg.Hold, errHeld)
	defer cancel()
	for {
		one, err := w.pullOnce(ctx, key)
		if err == nil || !again(ctx, err) {
			return one, err
		}
		sleep(ctx, retryTime)
	}
}

func (w *web) pullOnce(ctx context.Context, key jarKey) (*jar, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+key.controller+key.path, nil)
	if err != nil {
		return nil, fmt.Errorf("door: %w", err)
	}
	w.door.m.pulled.Inc()
	resp, err := w.proxy.Transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("door: %s: %w", key.path, err)
	}
	defer resp.Body.Close()
	one := &jar{status: resp.StatusCode, header: make(http.Header)}
	most := int64(largestJar)
	if w.jars.limit > 0 {
		most = min(most, w.jars.limit)
	}
	if resp.StatusCode != http.StatusOK {
		most = largestRefusal
	}
	if resp.ContentLength > most {
		one.large = true
		return one, nil
	}
	done, err := w.jars.turn(ctx, key.controller)
	if err != nil {
		return nil, fmt.Errorf("door: %s: %w", key.path, err)
	}
	defer done()
	var body bytes.Buffer
	if resp.ContentLength > 0 {
		body.Grow(int(resp.ContentLength) + bytes.MinRead)
	}
	if _, err := body.ReadFrom(io.LimitReader(resp.Body, most+1)); err != nil {
		return nil, fmt.Errorf("door: %s: %w", key.path, err)
	}
	if int64(body.Len()) > most {
		one.large = true
		return one, nil
	}
	one.body = body.Bytes()
	for _, name := range []string{"Content-Type", "Etag", "Last-Modified", "Location"} {
		if v := resp.Header.Get(name); v != "" {
			one.header.Set(name, v)
		}
	}
	if one.status == http.StatusOK && one.header.Get("Content-Type") == "" {
		one.header.Set("Content-Type", "application/java-archive")
	}
	one.modified, err = http.ParseTime(one.header.Get("Last-Modified"))
	if err != nil {
		one.modified = time.Time{} // there is none, or one that means nothing
		one.header.Del("Last-Modified")
	}
	return one, nil
}
