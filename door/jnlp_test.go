package door

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
)

func TestAddressesInJNLPFilesLeadHere(t *testing.T) {
	ins, err := filepath.Glob("testdata/jnlp/*.in.jnlp")
	if err != nil || len(ins) == 0 {
		t.Fatal("no files", err)
	}
	for _, in := range ins {
		text, err := os.ReadFile(in)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(strings.Replace(in, ".in.", ".out.", 1))
		if err != nil {
			t.Fatal(err)
		}
		got, err := rewrite(text, addresses{root: "https://gw.example/ci/", tunnel: "gw.example:443"})
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: %v\n%s\nwant\n%s", in, err, got, want)
		}
	}
}

func TestJNLPFileThatIsNoneStaysAsItIs(t *testing.T) {
	for _, text := range []string{"", "<", "<jnlp", "<jnlp><application-desc></jnlp>", "<jnlp><argument>a</argument>&bad;</jnlp>"} {
		got, err := rewrite([]byte(text), addresses{root: "http://door/"})
		if string(got) != text {
			t.Errorf("%q became %q (%v)", text, got, err)
		}
	}
}

func FuzzRewriteJNLP(f *testing.F) {
	ins, err := filepath.Glob("testdata/jnlp/*.jnlp")
	if err != nil {
		f.Fatal(err)
	}
	for _, in := range ins {
		text, err := os.ReadFile(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("<jnlp><a/><argument/><argument/><argument>-url</argument><argument/></jnlp>"))
	f.Fuzz(func(t *testing.T, text []byte) {
		to := addresses{root: "http://door/", tunnel: "door:1"}
		once, err := rewrite(text, to)
		if err != nil {
			if string(once) != string(text) {
				t.Fatalf("changed in spite of %v", err)
			}
			return
		}
		twice, err := rewrite(once, to)
		if err != nil || string(twice) != string(once) {
			t.Fatalf("rewritten twice it differs (%v):\n%q\n%q\n%q", err, text, once, twice)
		}
	})
}

func TestJNLPFileInClear(t *testing.T) {
	s := newStage(t, Config{Default: "other", Controllers: []string{"main"}})
	s.known("main", &linkv1.Jenkins{Path: "/jenkins/", AgentPort: 1})
	s.jenkins = func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.EscapedPath() != "/jenkins/computer/a%20b/slave-agent.jnlp" || r.URL.RawQuery != "x=1" {
			http.NotFound(rw, r)
			return
		}
		rw.Header().Set("Content-Type", "application/x-java-jnlp-file")
		fmt.Fprintf(rw, `<jnlp codebase="http://%s/jenkins/computer/a%%20b/"><argument>s</argument><argument>a b</argument><argument>-url</argument><argument>http://inside:8080/jenkins/</argument></jnlp>`, r.Host)
	}
	resp, body := s.fetch("/main/computer/a%20b/slave-agent.jnlp?x=1")
	want := fmt.Sprintf(`<jnlp codebase="%[1]smain/computer/a%%20b/"><argument>s</argument><argument>a b</argument><argument>-url</argument><argument>%[1]smain/</argument></jnlp>`, s.url)
	if resp.StatusCode != http.StatusOK || body != want {
		t.Fatalf("%s\n%s\nwant\n%s", resp.Status, body, want)
	}
	wantHeader(t, resp, "Content-Type", "application/x-java-jnlp-file")
}

func TestEncryptedJNLPFile(t *testing.T) {
	secret := remoting.Secret([]byte("0123456789abcdef0123456789abcdef"), "a")
	file := func(root string) string {
		return "<jnlp><argument>" + secret + "</argument><argument>a</argument><argument>-url</argument><argument>" + root + "</argument></jnlp>"
	}
	sealed, err := remoting.EncryptJNLP(secret, [16]byte{1}, []byte(file("http://inside/")))
	if err != nil {
		t.Fatal(err)
	}
	jenkins := func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "encrypt=true" {
			http.Error(rw, "no", http.StatusForbidden)
			return
		}
		rw.Header().Set("Content-Type", "application/octet-stream")
		_, _ = rw.Write(sealed) // the test sees it
	}
	const path = "/computer/a/jenkins-agent.jnlp?encrypt=true"

	t.Run("the secret is not known: it stays", func(t *testing.T) {
		var log logged
		s := newStage(t, Config{Default: "main", Log: slog.New(slog.NewTextHandler(&log, nil))})
		s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 1})
		s.jenkins = jenkins
		if _, body := s.fetch(path); body != string(sealed) {
			t.Fatal("it was changed")
		}
		if said := log.String(); !strings.Contains(said, "passed on unchanged") || !strings.Contains(said, "-url leads here") {
			t.Errorf("the log says nothing of the way past this door: %q", said)
		}
		if resp := s.get("/computer/a/jenkins-agent.jnlp"); resp.StatusCode != http.StatusForbidden {
			t.Fatalf("%s where the controller says 403", resp.Status)
		}
	})
	t.Run("the secret is known: it leads here", func(t *testing.T) {
		s := newStage(t, Config{Default: "main", Secret: func(agent string) (string, bool) { return secret, agent == "a" }})
		s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 1})
		s.jenkins = jenkins
		_, body := s.fetch(path)
		text, err := remoting.DecryptJNLP(secret, []byte(body))
		if err != nil || string(text) != file(s.url) {
			t.Fatalf("%s (%v), want %s", text, err, file(s.url))
		}
		if body[:16] == string(sealed[:16]) {
			t.Fatal("the IV was used twice")
		}
	})
	t.Run("the secret is wrong: it stays", func(t *testing.T) {
		s := newStage(t, Config{Default: "main", Secret: func(string) (string, bool) { return strings.Repeat("0", 64), true }})
		s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 1})
		s.jenkins = jenkins
		if _, body := s.fetch(path); body != string(sealed) {
			t.Fatal("it was changed")
		}
	})
}

func TestJNLPFileIsHeldWhileTheControllerStarts(t *testing.T) {
	s := newStage(t, Config{Default: "main"})
	s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 1})
	s.jenkins = func(rw http.ResponseWriter, _ *http.Request) {
		switch s.asked.Load() {
		case 1:
			http.Error(rw, "Please wait while Jenkins is getting ready to work", http.StatusServiceUnavailable)
		case 2:
			_, _ = rw.Write([]byte("<jnlp")) // it stops in the middle
			panic(http.ErrAbortHandler)
		default:
			_, _ = rw.Write([]byte("<jnlp/>")) // the test sees it
		}
	}
	resp, body := s.fetch("/computer/a/slave-agent.jnlp")
	if n := s.asked.Load(); resp.StatusCode != http.StatusOK || body != "<jnlp/>" || n != 3 {
		t.Fatalf("%s %q after %d questions; want the file after 3", resp.Status, body, n)
	}
}

// logged keeps what a door says that serves meanwhile.
type logged struct {
	mu  sync.Mutex // guards the following
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
