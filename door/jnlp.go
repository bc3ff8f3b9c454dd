package door

import (
	"bytes"
	"crypto/rand"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/moorage-dev/moorage/remoting"
)

var (
	errNotJNLP = errors.New("door: not a .jnlp file")
	errSealed  = errors.New("door: it is encrypted and the agent's secret is not known here: the addresses in it may lead past this door; -url leads here")
)

// largestJNLP is the most that is read of a .jnlp file; a stock one has two
// KiB. A larger one is an error: what cannot be rewritten could lead past the door.
const largestJNLP = 64 << 10

// rewriteJNLP makes the addresses in a .jnlp file lead to this door.
//
// The encrypted form is passed on as it is, unless the agent's secret is known
// here. The agent finds its way with it only if the controller's own address
// is this door's, or if it is told another on its command line.
func (w *web) rewriteJNLP(resp *http.Response) error {
	p := resp.Request.Context().Value(pageKey{}).(proxied)
	if resp.StatusCode != http.StatusOK || !strings.HasSuffix(p.path, ".jnlp") {
		return nil
	}
	if resp.Request.Method == http.MethodHead {
		resp.Header.Del("Content-Length") // of another text than the agent will get
		return nil
	}
	body, err := io.ReadAll(resp.Body) // which the transport has bounded
	if err != nil {
		return fmt.Errorf("door: %s: %w", p.path, err)
	}
	if len(body) > largestJNLP {
		return fmt.Errorf("door: %s: more than %d bytes", p.path, largestJNLP)
	}
	in := p.asked
	host, port := w.agentPort(in, p.page, p.jenkins)
	to := addresses{root: w.root(in, p.page), tunnel: net.JoinHostPort(host, port)}
	body, err = w.rewriteAny(body, p.agent, to)
	switch {
	case errors.Is(err, errSealed):
		// Nothing is wrong where the controller's own address is this door's.
		w.door.log.Info("passed on unchanged", "path", p.path, "remote", in.RemoteAddr, "why", err)
	case err != nil:
		w.door.log.Warn("passed on unchanged", "path", p.path, "err", err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
	resp.Header.Del("Etag") // of another text
	return nil
}

// rewriteAny rewrites a .jnlp file in clear, or in its encrypted form if the
// secret is known. With an error it returns the file as it was.
func (w *web) rewriteAny(body []byte, agent string, to addresses) ([]byte, error) {
	if bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n\ufeff"), []byte("<")) {
		return rewrite(body, to)
	}
	if w.door.cfg.Secret == nil {
		return body, errSealed
	}
	secret, ok := w.door.cfg.Secret(agent)
	if !ok {
		return body, errSealed
	}
	text, err := remoting.DecryptJNLP(secret, body)
	if err != nil {
		return body, fmt.Errorf("door: %w", err)
	}
	text, err = rewrite(text, to)
	if err != nil {
		return body, err
	}
	var iv [16]byte
	_, _ = rand.Read(iv[:]) // never fails
	sealed, err := remoting.EncryptJNLP(secret, iv, text)
	if err != nil {
		return body, fmt.Errorf("door: %w", err)
	}
	return sealed, nil
}

// addresses are what a .jnlp file is to say.
type addresses struct {
	root   string // of the controller, ends with '/'
	tunnel string // host:port of the agent port
}

// rewrite replaces the addresses in a .jnlp file that would lead past the door:
// the arguments of -url and -tunnel, and links below the root that they or the
// codebase name. Every other byte stays. With an error it returns the file as
// it was.
func rewrite(text []byte, to addresses) ([]byte, error) {
	tokens, err := jnlpTokens(text)
	if err != nil {
		return text, err
	}
	var roots []string // as the controller knows them, each without the last '/'
	for _, t := range tokens {
		if root, ok := t.root(); ok {
			roots = append(roots, strings.TrimSuffix(root, "/"))
		}
	}
	var out []byte
	copied := 0
	for _, t := range tokens {
		value, ok := t.value, false
		switch {
		case t.option == "-tunnel":
			value, ok = to.tunnel, true
		case t.option == "-url":
			value, ok = sameEnd(to.root, t.value), true
		case t.option == "":
			value, ok = moved(t.value, roots, to.root)
		}
		if !ok {
			continue
		}
		out = append(out, text[copied:t.from]...)
		var escaped bytes.Buffer
		_ = xml.EscapeText(&escaped, []byte(value)) // a Buffer takes everything
		out = append(out, escaped.Bytes()...)
		copied = t.to
	}
	return append(out, text[copied:]...), nil
}

// moved returns a link below one of the roots as it is below another. False:
// it is below none, or is relative.
func moved(link string, roots []string, to string) (string, bool) {
	for _, root := range roots {
		if below, ok := strings.CutPrefix(link, root); ok && (below == "" || below[0] == '/') {
			return strings.TrimSuffix(to, "/") + below, true
		}
	}
	return link, false
}

// sameEnd keeps the style of a root: Hudson 3 writes it without the last '/',
// and its agents put one behind it.
func sameEnd(root, like string) string {
	if strings.HasSuffix(like, "/") {
		return root
	}
	return strings.TrimSuffix(root, "/")
}

// A jnlpToken is a place in a .jnlp file with an address.
type jnlpToken struct {
	from, to int    // where it stands
	value    string // without escapes
	name     string // of an attribute; "" for an argument
	option   string // that the argument belongs to; "" for an attribute
}

// root returns the controller's root, if this is where one shows.
func (t jnlpToken) root() (string, bool) {
	switch {
	case t.option == "-url":
		return t.value, isAddress(t.value)
	case t.name == "codebase":
		i := strings.LastIndex(t.value, "/computer/")
		return t.value[:max(i, 0)], i > 0 && isAddress(t.value[:i])
	}
	return "", false
}

func isAddress(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// links are the attributes that hold one.
var links = regexp.MustCompile(`\s(codebase|href)\s*=\s*(?:"([^"]*)"|'([^']*)')`)

// jnlpTokens returns the places with addresses, in order.
func jnlpTokens(text []byte) ([]jnlpToken, error) {
	var (
		tokens []jnlpToken
		args   int    // behind secret and name, which may look like anything, come options
		option string // the argument before
		arg    *jnlpToken
	)
	d := xml.NewDecoder(bytes.NewReader(text))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil } // names may be mangled, addresses are not
	for {
		from := int(d.InputOffset())
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotJNLP, err)
		}
		to := int(d.InputOffset())
		switch token := token.(type) {
		case xml.StartElement:
			for _, m := range links.FindAllSubmatchIndex(text[from:to], -1) {
				name, value := string(text[from+m[2]:from+m[3]]), m[4:6]
				if value[0] < 0 {
					value = m[6:8]
				}
				tokens = append(tokens, jnlpToken{from: from + value[0], to: from + value[1], name: name, value: attribute(token, name)})
			}
			if token.Name.Local == "argument" && !bytes.HasSuffix(text[from:to], []byte("/>")) {
				arg = &jnlpToken{from: to, to: to}
			}
		case xml.CharData:
			if arg != nil {
				arg.value, arg.to = arg.value+string(token), to
			}
		case xml.EndElement:
			if token.Name.Local != "argument" {
				continue
			}
			args++
			if arg == nil {
				option = "" // <argument/>
				continue
			}
			if args > 3 && (option == "-url" || option == "-tunnel") {
				arg.value, arg.option = strings.TrimSpace(arg.value), option
				tokens = append(tokens, *arg)
				option = ""
			} else {
				option = strings.TrimSpace(arg.value)
			}
			arg = nil
		}
	}
	return tokens, nil
}

func attribute(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name && a.Name.Space == "" {
			return a.Value
		}
	}
	return ""
}
