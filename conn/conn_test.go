package conn_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"github.com/moorage-dev/moorage/conn"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The suite that every net.Conn of the standard library passes, from either end.
func TestNetConn(t *testing.T) {
	for _, tt := range []struct {
		desc   string
		window int
		turned bool
	}{
		{"default window", session.DefaultWindow, false},
		{"from the controller side", session.DefaultWindow, true},
		{"window smaller than a frame", 4 << 10, false},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				p := newPath(tt.window).accept()
				c1, c2 = p.near, p.far
				if tt.turned {
					c1, c2 = c2, c1
				}
				return c1, c2, func() {
					_ = c1.Close()
					_ = c2.Close()
					p.close()
				}, nil
			})
		})
	}
}

// story runs f in a bubble, with an accepted session.
func story(t *testing.T, f func(t *testing.T, p *path)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := newPath(session.DefaultWindow).accept()
		synctest.Wait()
		defer p.close()
		f(t, p)
	})
}

func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if n, err := io.WriteString(w, s); n != len(s) || err != nil {
		t.Fatalf("Write(%d bytes) = %d, %v", len(s), n, err)
	}
}

func wantRead(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v, want %q", got, err, want)
	}
}

func wantEnded(t *testing.T, err error, reason linkv1.Reason) {
	t.Helper()
	if e, ok := errors.AsType[*session.EndedError](err); !ok || e.Reason != reason {
		t.Fatalf("error %v, want an ending with %v", err, reason)
	}
}

func TestSmallWritesAreJoinedWhileOneIsUnpersisted(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		p.holding.Store(true)
		write(t, p.near, "first")
		synctest.Wait()
		if n := p.dataUp.Load(); n != 1 {
			t.Fatalf("%d frames for a write with nothing under way, want 1 at once", n)
		}
		for range 1000 {
			write(t, p.near, "x")
		}
		synctest.Wait()
		if n := p.dataUp.Load(); n != 1 {
			t.Fatalf("%d frames while the first is unpersisted, want 1", n)
		}
		p.release()
		synctest.Wait()
		if n := p.dataUp.Load(); n != 2 {
			t.Errorf("%d frames after the acknowledgement, want 2: a thousand writes are one frame", n)
		}
		wantRead(t, p.far, "first"+strings.Repeat("x", 1000))
	})
}

func TestWaitingBytesGoBeforeLaterOnes(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		p.holding.Store(true)
		for _, s := range []string{"first, ", "second, ", "third"} {
			write(t, p.near, s)
		}
		p.release()
		wantRead(t, p.far, "first, second, third")
	})
}

func TestFullFrameGoesWithoutWaiting(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		p.holding.Store(true)
		write(t, p.near, "first")
		write(t, p.near, strings.Repeat("y", 2*session.MaxFrame+1))
		synctest.Wait()
		if n := p.dataUp.Load(); n != 3 {
			t.Errorf("%d frames, want 3: two are full, one byte waits", n)
		}
	})
}

func TestHalfCloseFollowsJoinedBytes(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		p.holding.Store(true)
		write(t, p.near, "first ")
		write(t, p.near, "last")
		if err := p.near.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.near.Write([]byte("more")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("Write after CloseWrite: %v", err)
		}
		got, err := io.ReadAll(p.far)
		if string(got) != "first last" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		write(t, p.far, "the other direction goes on")
		wantRead(t, p.near, "the other direction goes on")
	})
}

func TestCloseSendsTheRestInTheBackground(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		p.holding.Store(true)
		write(t, p.near, "first ")
		write(t, p.near, "last")
		if err := p.near.Close(); err != nil {
			t.Fatal(err)
		}
		if err := p.near.CloseWrite(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("CloseWrite after Close: %v", err)
		}
		p.release()
		got, err := io.ReadAll(p.far)
		if string(got) != "first last" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		<-p.near.Done()
		<-p.far.Done()
		wantEnded(t, p.near.Err(), linkv1.Reason_REASON_OK)
		if _, err := p.near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read after Close: %v", err)
		}
	})
}

func TestReasonReachesTheFarSideAfterTheData(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		p.holding.Store(true)
		write(t, p.near, "not known persisted at the end")
		write(t, p.far, "half a page")
		p.far.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_PEER_RESET, Text: "cut"})
		p.far.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_OK})
		got, err := io.ReadAll(p.near)
		if string(got) != "half a page" {
			t.Errorf("read %q", got)
		}
		wantEnded(t, err, linkv1.Reason_REASON_PEER_RESET)
		_, err = p.near.Write([]byte("x"))
		wantEnded(t, err, linkv1.Reason_REASON_PEER_RESET)
		wantEnded(t, p.near.Flush(t.Context()), linkv1.Reason_REASON_PEER_RESET)
	})
}

func TestWriteWaitsForTheFarReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(1000).accept()
		defer p.close()
		if err := p.near.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := p.near.Write(make([]byte, 5000))
		if n != 1000 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Write = %d, %v, want exactly the window of 1000", n, err)
		}
		if err := p.near.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		go io.CopyN(p.near, zeros{}, 4000)
		if n, err := io.CopyN(io.Discard, p.far, 5000); err != nil {
			t.Fatalf("read %d, %v", n, err)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestWritesBeforeTheAnswerWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(session.DefaultWindow)
		defer p.close()
		write(t, p.far, "early")
		if err := p.far.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		write(t, p.near, "data may follow OPEN at once")
		wantRead(t, p.far, "data may follow OPEN at once")
		p.accept()
		got, err := io.ReadAll(p.near)
		if string(got) != "early" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func TestCloseBeforeTheAnswerRejects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(session.DefaultWindow)
		defer p.close()
		write(t, p.far, "never to be sent")
		p.far.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_REFUSED, Text: "no"})
		_, err := p.near.Read(make([]byte, 1))
		wantEnded(t, err, linkv1.Reason_REASON_REFUSED)
	})
}

func TestMessagesKeepTheirBoundaries(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		ctx := t.Context()
		write(t, p.near, "bytes before")
		big := bytes.Repeat([]byte("b"), session.MaxFrame)
		for _, m := range [][]byte{[]byte("one"), {}, big} {
			if err := p.near.Send(ctx, m); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.near.Send(ctx, append(big, 'b')); !errors.Is(err, conn.ErrTooLarge) {
			t.Errorf("a message above the limit: %v", err)
		}
		if err := p.near.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		for _, want := range [][]byte{[]byte("bytes before"), []byte("one"), {}, big} {
			got, err := p.far.Receive(ctx)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("received %d bytes, %v, want %d", len(got), err, len(want))
			}
		}
		if err := p.near.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.far.Receive(ctx); err != io.EOF {
			t.Errorf("Receive after the end: %v, want io.EOF", err)
		}
	})
}

func TestSendWaitsForRoomOrItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(10).accept()
		defer p.close()
		if err := p.near.Send(t.Context(), make([]byte, 50)); err != nil {
			t.Fatalf("a message larger than the whole window goes alone: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.near.Send(ctx, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Send into a full window: %v", err)
		}
		if _, err := p.far.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.near.Send(t.Context(), []byte("x")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.near.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Receive of nothing: %v", err)
		}
	})
}

// A crowd must not hold up who has said little, nor let who says much fill the
// memory up to everybody's windows.
func TestInACrowdFewFramesAreUnderWay(t *testing.T) {
	for desc, send := range map[string]func(ctx context.Context, p *path) error{
		"messages": func(ctx context.Context, p *path) error { return p.near.Send(ctx, []byte("x")) },
		"bytes": func(ctx context.Context, p *path) error {
			deadline, _ := ctx.Deadline()
			_ = p.near.SetWriteDeadline(deadline)
			_, err := p.near.Write(make([]byte, session.MaxFrame))
			return err
		},
	} {
		t.Run(desc, func(t *testing.T) {
			story(t, func(t *testing.T, p *path) {
				p.crowded.Store(true)
				p.holding.Store(true)
				n := 0
				fill := func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					for more := 100; more > 0 && send(ctx, p) == nil; more-- {
						n++
					}
				}
				fill()
				window := n
				if n < 8 || n > 20 {
					t.Fatalf("%d frames went into a crowd, want few", n)
				}
				p.release() // Kafka has them, and the crowd is still there
				synctest.Wait()
				over := make(chan struct{})
				go func() {
					defer close(over)
					_, _ = io.Copy(io.Discard, p.far)
				}()
				defer func() {
					_ = p.far.Close()
					<-over
				}()
				fill()
				if n == window {
					t.Fatal("nothing went after what was under way had been persisted")
				}
				before := n
				p.crowded.Store(false)
				p.holding.Store(true)
				fill()
				if n-before < 2*window && desc == "messages" {
					t.Errorf("%d frames went without a crowd, %d with one", n-before, window)
				}
				p.release()
			})
		})
	}
}

func TestEmptyMessagesAreBoundedToo(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n := 0
		for p.near.Send(ctx, nil) == nil {
			n++
		}
		if n < 1000 || n > 20_000 {
			t.Errorf("%d empty messages fit", n)
		}
	})
}

func TestFlushWaitsForPersistence(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		p.holding.Store(true)
		write(t, p.near, "a")
		write(t, p.near, "b")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.near.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Flush while Kafka is silent: %v", err)
		}
		if n := p.dataUp.Load(); n != 2 {
			t.Errorf("%d frames, want 2: Flush hurries what is joined", n)
		}
		p.release()
		if err := p.near.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// The far side's CLOSE may bring the news that all frames are persisted; what
// was written and not yet cut into one is lost with it.
func TestFlushDoesNotHideWhatACloseDropped(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		p.holding.Store(true)
		write(t, p.near, "a")
		write(t, p.near, "joined, and never sent")
		now := time.Now()
		p.near.Lock()
		must(p.agent.Heartbeat(now, session.Heartbeat{Persisted: 2}))
		must(p.agent.Frame(now, session.Frame{Seq: 2, Kind: envelope.Close, Payload: session.MarshalEnding(session.Ending{Reason: linkv1.Reason_REASON_OK})}))
		p.near.Changed()
		p.near.Unlock()
		wantEnded(t, p.near.Flush(t.Context()), linkv1.Reason_REASON_OK)
	})
}

func TestConcurrentWritesAreNotMixed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(100).accept()
		defer p.close()
		const each = 1000
		for _, c := range "ab" {
			go func() { _, _ = io.WriteString(p.near, strings.Repeat(string(c), each)) }()
		}
		got := make([]byte, 2*each)
		if _, err := io.ReadFull(p.far, got); err != nil {
			t.Fatal(err)
		}
		if s := string(got); s != strings.Repeat("a", each)+strings.Repeat("b", each) &&
			s != strings.Repeat("b", each)+strings.Repeat("a", each) {
			t.Error("the bytes of two Writes are mixed")
		}
	})
}
