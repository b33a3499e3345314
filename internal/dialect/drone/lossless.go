package drone

import (
	"slices"
	"strconv"
	"strings"

	"slipway/internal/ci"
	"slipway/internal/yaml"
)

// losslessTo reads what is added to workloads so that they lose no request: a mode, or a mapping.
func (b *builtin) losslessTo(to **ci.Lossless) option {
	return option{read: func(s setting) {
		l := &ci.Lossless{}
		*to = l
		mode := part{want: "one of add, require, check and off", read: func(text string) bool {
			l.Mode = ci.LosslessMode(text)
			return slices.Contains([]ci.LosslessMode{ci.LosslessAdd, ci.LosslessRequire, ci.LosslessCheck, ci.LosslessOff}, l.Mode)
		}}
		b.parts(s, mode, map[string]part{
			"mode":  mode,
			"drain": {want: "a time from 1s to 10m", read: seconds(&l.Drain, ci.MaxDrain)},
			"ready": {want: "a time from 1s to 10m", read: seconds(&l.Ready, ci.MaxReady)},
		})
	}}
}

// probeTo reads which requests are sent throughout a rollout: a URL, or a mapping.
func (b *builtin) probeTo(to **ci.Probe) option {
	return option{read: func(s setting) {
		p := &ci.Probe{}
		*to = p
		losses := 0
		url := part{want: "a URL that begins with http:// or https://", read: func(text string) bool {
			p.URL = text
			return strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://")
		}}
		b.parts(s, url, map[string]part{
			"url":     url,
			"rate":    {want: "a number of requests per second from 1 to " + strconv.Itoa(ci.MaxProbeRate), read: within(&p.Rate, 1, ci.MaxProbeRate)},
			"status":  {want: "a status from 200 to 599", read: within(&p.Status, 200, 599)},
			"losses":  {want: "a number", read: within(&losses, 0, 1<<30)},
			"timeout": {want: "a time from 1s to 1m", read: seconds(&p.Timeout, ci.MaxProbeTimeout)},

			"token":    secretPart(&p.Token),
			"username": {want: "a text", read: func(text string) bool { p.Username = text; return text != "" }},
			"password": secretPart(&p.Password),
			"ca":       secretPart(&p.CA),
		})
		p.Losses = int64(losses)
		if s.node.Kind == yaml.Mapping && s.value.Secret == "" && s.node.Get("url") == nil {
			b.bad(s, "needs a url")
		} else if err := p.CheckFor(p.URL); err != nil && (!b.literal || !strings.Contains(p.URL+p.Username, "${")) {
			b.bad(s, "cannot be used: %s", err)
		}
	}}
}

// part reads one value of a setting that may have several: want says what it must be.
type part struct {
	want string
	read func(text string) bool
	// secret, if it is set, takes the name in {from_secret: NAME}, and read is not used.
	secret func(name string)
}

// secretPart names a secret.
func secretPart(to **ci.FromSecret) part {
	return part{want: "{from_secret: NAME}; what is secret is not written here", secret: func(name string) { *to = &ci.FromSecret{Secret: name} }}
}

// parts reads a setting that is one value, or a mapping.
func (b *builtin) parts(s setting, whole part, parts map[string]part) {
	read := func(p part, n *yaml.Node, name, text string) {
		if !p.read(text) && (!b.literal || !strings.Contains(text, "${")) {
			b.errorf(n.Pos, "step %q: %s must be %s", b.step.name, name, p.want)
		}
	}
	if s.node.Kind != yaml.Mapping || s.value.Secret != "" {
		if text := b.plain(s); s.value.Secret == "" {
			read(whole, s.node, s.name, text)
		}
		return
	}
	for _, e := range s.node.Entries {
		name := s.name + ": " + e.Key.Text
		p, known := parts[e.Key.Text]
		switch {
		case !known:
			b.errorf(e.Key.Pos, "step %q: %s has no %q", b.step.name, s.name, e.Key.Text)
		case p.secret != nil:
			if secret, ok := b.fromSecret(e.Value, name); ok {
				p.secret(secret)
			} else {
				b.errorf(e.Value.Pos, "step %q: %s must be %s", b.step.name, name, p.want)
			}
		case e.Value.Kind != yaml.Scalar:
			b.errorf(e.Value.Pos, "step %q: %s must be %s", b.step.name, name, p.want)
		default:
			read(p, e.Value, name, e.Value.Text)
		}
	}
}

// seconds returns what reads a time of at least a second, and at most some.
func seconds(to *int, most int64) func(text string) bool {
	return func(text string) bool {
		n, ok := parseTimeout(text)
		*to = int(n)
		return ok && n <= most
	}
}

func within(to *int, least, most int) func(text string) bool {
	return func(text string) bool {
		n, err := strconv.Atoi(text)
		*to = n
		return err == nil && n >= least && n <= most
	}
}
