package main

import (
	"crypto/tls"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/link"
)

// linkFlags say who an agent side is and how it reaches gateways.
type linkFlags struct {
	Gateway    []address      `required:"" placeholder:"HOST:PORT" group:"link" help:"Gateways, or balancers before them; when one fails, another is tried."`
	Controller controllerName `required:"" placeholder:"NAME" group:"link" help:"The controller to reach."`
	Agent      agentName      `required:"" placeholder:"NAME" group:"link" help:"This agent's name."`
	Label      []pair         `placeholder:"NAME=VALUE" group:"link" help:"Free words for operators, shown by moorage sessions."`
	TLSCA      string         `name:"tls-ca" placeholder:"FILE" group:"link" help:"Certificates (PEM) that the gateways' are checked against instead of the system's."`
	TLSCert    string         `name:"tls-cert" placeholder:"FILE" group:"link" help:"Own certificate (PEM), for gateways that ask for one."`
	TLSKey     string         `name:"tls-key" placeholder:"FILE" group:"link" help:"Key (PEM) of --tls-cert."`
	TLSName    string         `name:"tls-name" placeholder:"NAME" group:"link" help:"The name to expect in the gateways' certificates; the host of --gateway by default."`
	TokenFile  string         `placeholder:"FILE" group:"link" help:"File with the token that proves the agent's name (see moorage token)."`
	Insecure   bool           `group:"link" help:"Speak to gateways without TLS. For trying things out."`
}

// tls returns nil for a link in clear, which must be asked for by name.
func (f *linkFlags) tls() (*tls.Config, error) {
	if f.Insecure {
		for flag, value := range map[string]string{"--tls-ca": f.TLSCA, "--tls-cert": f.TLSCert, "--tls-key": f.TLSKey, "--tls-name": f.TLSName} {
			if value != "" {
				return nil, usagef("--insecure is without TLS, so %s has no place beside it; remove one", flag)
			}
		}
		return nil, nil
	}
	pool, err := loadPool("--tls-ca", f.TLSCA)
	if err != nil {
		return nil, err
	}
	pair, err := loadPair("--tls-cert", f.TLSCert, "--tls-key", f.TLSKey)
	return &tls.Config{RootCAs: pool, Certificates: pair, ServerName: f.TLSName, MinVersion: tls.VersionTLS13}, err
}

// token returns what proves the agent's name, "" when nothing does.
func (f *linkFlags) token() (string, error) {
	if f.TokenFile == "" {
		return "", nil
	}
	token, err := readSecret("--token-file", f.TokenFile)
	return strings.TrimSpace(token), err
}

func pairMap(flag string, pairs []pair) (map[string]string, error) {
	m := make(map[string]string, len(pairs))
	for _, p := range pairs {
		if first, twice := m[p.Name]; twice {
			return nil, usagef("%s: %s stands there twice, as %s and as %s; keep one", flag, p.Name, first, p.Value)
		}
		m[p.Name] = p.Value
	}
	return m, nil
}

// client returns the link to the gateways; it dials when it is used.
func (f *linkFlags) client(p *process) (*link.Client, error) { return f.clientFor(p, 0) }

// clientFor returns one whose sessions look for gateways for so long; 0: for
// longer than the controller side waits for them.
func (f *linkFlags) clientFor(p *process, giveUp time.Duration) (*link.Client, error) {
	tls, err := f.tls()
	if err != nil {
		return nil, err
	}
	token, err := f.token()
	if err != nil {
		return nil, err
	}
	labels, err := pairMap("--label", f.Label)
	if err != nil {
		return nil, err
	}
	client, err := link.New(link.Config{
		Gateways:   texts(f.Gateway),
		Controller: string(f.Controller),
		Agent:      string(f.Agent),
		Credential: token,
		Labels:     labels,
		TLS:        tls,
		GiveUp:     giveUp,
		Logger:     p.log,
	})
	if err != nil {
		return nil, usageError{err}
	}
	return client, nil
}
