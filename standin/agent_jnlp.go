package standin

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/moorage-dev/moorage/remoting"
)

// jnlpLimit bounds what is read of an agent file.
const jnlpLimit = 64 << 10

// start fetches the file that -jnlpUrl names, every ten seconds until it comes,
// and takes the options that it tells.
func (r *run) start(ctx context.Context) error {
	told := *r.Agent // the caller's stays as it is
	r.Agent = &told
	for {
		err := r.fetchJNLP(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.tell(Event{State: Failed, Err: err})
		if err := sleep(ctx, retrySleep); err != nil {
			return err
		}
	}
}

func (r *run) fetchJNLP(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.JNLPURL, nil)
	if err != nil {
		return err
	}
	if r.Secret != "" {
		request.URL.RawQuery = "encrypt=true"
	}
	response, err := r.do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, jnlpLimit))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("standin: the agent file: %s", response.Status)
	}
	if response.Header.Get("Content-Type") == "application/octet-stream" {
		if body, err = remoting.DecryptJNLP(r.Secret, body); err != nil {
			return err
		}
	}
	var file struct {
		Arguments []string `xml:"application-desc>argument"`
	}
	if err := xml.Unmarshal(body, &file); err != nil {
		return fmt.Errorf("standin: the agent file: %w", err)
	}
	return r.take(file.Arguments)
}

// take takes the options of an agent file: secret, name, then those with a
// dash. Those that are for local files alone are passed over.
func (r *run) take(arguments []string) error {
	if len(arguments) < 2 {
		return errors.New("standin: the agent file names no agent")
	}
	r.Secret, r.Name = arguments[0], arguments[1]
	for rest := arguments[2:]; len(rest) > 0; rest = rest[1:] {
		option := rest[0]
		if option == "-webSocket" {
			r.WebSocket = true
			continue
		}
		if len(rest) < 2 {
			return fmt.Errorf("standin: the agent file ends with %s", option)
		}
		rest = rest[1:]
		switch option {
		case "-url":
			r.URL = rest[0]
		case "-tunnel":
			r.Tunnel = rest[0]
		}
	}
	return nil
}
