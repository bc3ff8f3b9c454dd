package door

import "testing"

func TestRoute(t *testing.T) {
	d, err := New(Config{
		Backend: new(rig),
		Default: "main",
		Routes: []Route{
			{Controller: "mac", Node: "mac-*"},
			{Controller: "old", Prefix: "/hudson/", Host: "build.example.test"},
			{Controller: "port", Port: 50001},
			{Controller: "sni", SNI: "ci.example.test"},
		},
		Controllers: []string{"main", "ci"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		desc             string
		host, path       string
		port             int
		node, sni        string
		controller, rest string
	}{
		{"nothing shown", "", "", 443, "", "", "main", ""},
		{"agent's name", "", "", 443, "mac-7", "", "mac", ""},
		{"port", "", "", 50001, "x", "", "port", ""},
		{"the first route wins", "", "", 50001, "mac-7", "", "mac", ""},
		{"server name", "", "", 443, "", "CI.example.test", "sni", ""},
		{"host and prefix", "Build.example.test:8080", "/hudson/login", 443, "", "", "old", "/login"},
		{"prefix at another host", "example.test", "/hudson/login", 443, "", "", "main", "/hudson/login"},
		{"controller's name in the path", "example.test", "/ci/tcpSlaveAgentListener/", 443, "", "", "ci", "/tcpSlaveAgentListener/"},
		{"without a slash behind it", "example.test", "/ci", 443, "", "", "ci", "/"},
		{"a longer name", "example.test", "/cities", 443, "", "", "main", "/cities"},
		{"controller's name as the host", "ci", "/login", 443, "", "", "ci", "/login"},
		{"and as its first part", "ci.gateway.test:443", "/login", 443, "", "", "ci", "/login"},
		{"IPv6", "[::1]:443", "/login", 443, "", "", "main", "/login"},
	} {
		controller, rest, ok := d.route(tt.host, tt.path, tt.port, tt.node, tt.sni)
		if !ok || controller != tt.controller || rest != tt.rest {
			t.Errorf("%s: %q, %q, %v; want %q, %q", tt.desc, controller, rest, ok, tt.controller, tt.rest)
		}
	}
}

func TestRoutesAreChecked(t *testing.T) {
	for _, tt := range []struct {
		desc  string
		route Route
	}{
		{"leads nowhere", Route{Node: "a"}},
		{"bad pattern", Route{Controller: "a", Node: "[a"}},
		{"bad prefix", Route{Controller: "a", Prefix: "ci/"}},
	} {
		if _, err := New(Config{Backend: new(rig), Routes: []Route{tt.route}}); err == nil {
			t.Errorf("%s: accepted", tt.desc)
		}
	}
}
