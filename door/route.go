package door

import (
	"net"
	"path"
	"slices"
	"strings"
)

// route says which controller a connection is for. host and urlPath are an HTTP
// request's, empty for a raw connection; port is this door's; node is the
// agent's name as far as it was shown, sni what its TLS asked for. rest is the
// path without what led to the controller. Not ok: there is none to lead to.
func (d *Door) route(host, urlPath string, port int, node, sni string) (controller, rest string, ok bool) {
	host = withoutPort(host)
	for _, r := range d.cfg.Routes {
		rest, ok := r.match(host, urlPath, port, node, sni)
		if !ok {
			continue
		}
		if r.Prefix == "" && slices.Contains(d.cfg.Controllers, r.Controller) {
			// The path may name it besides, as Controllers let it.
			if below, ok := cutPrefix(rest, "/"+r.Controller); ok {
				rest = below
			}
		}
		return r.Controller, rest, true
	}
	for _, name := range d.cfg.Controllers {
		if rest, ok := cutPrefix(urlPath, "/"+name); ok {
			return name, rest, true
		}
	}
	for _, asked := range []string{host, sni} {
		first, _, _ := strings.Cut(asked, ".")
		i := slices.IndexFunc(d.cfg.Controllers, func(name string) bool {
			return strings.EqualFold(name, asked) || strings.EqualFold(name, first)
		})
		if i >= 0 {
			return d.cfg.Controllers[i], urlPath, true
		}
	}
	return d.cfg.Default, urlPath, d.cfg.Default != ""
}

func (r *Route) match(host, urlPath string, port int, node, sni string) (rest string, ok bool) {
	rest = urlPath
	if r.Prefix != "" {
		if rest, ok = cutPrefix(urlPath, strings.TrimSuffix(r.Prefix, "/")); !ok {
			return "", false
		}
	}
	if r.Node != "" {
		if ok, _ := path.Match(r.Node, node); !ok || node == "" { // the pattern was checked at the start
			return "", false
		}
	}
	return rest, (r.Host == "" || strings.EqualFold(r.Host, host)) &&
		(r.SNI == "" || strings.EqualFold(r.SNI, sni)) &&
		(r.Port == 0 || r.Port == port)
}

// cutPrefix takes a prefix of whole segments off a path; what is left begins
// with a slash.
func cutPrefix(urlPath, prefix string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(urlPath, prefix)
	switch {
	case !ok:
		return "", false
	case rest == "":
		return "/", true
	}
	return rest, rest[0] == '/'
}

func withoutPort(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

// routesBySNI reports whether the server name inside JNLP4 is of any use.
func (d *Door) routesBySNI() bool {
	return slices.ContainsFunc(d.cfg.Controllers, func(name string) bool { return name != d.cfg.Default }) ||
		slices.ContainsFunc(d.cfg.Routes, func(r Route) bool { return r.SNI != "" })
}
