package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"slipway/internal/client"
	"slipway/internal/fault"
)

// connection is how the verbs below reach a server: by flags, by SLIPWAY_SERVER and SLIPWAY_TOKEN, by what `slipway
// login` keeps, or, on the server's own machine, by the token that it wrote.
type connection struct {
	server string
	token  string
	// json asks for machine-readable output.
	json bool
}

// login is what `slipway login` keeps.
type login struct {
	Server string `json:"server"`
	Token  string `json:"token"`
}

const defaultServer = "http://127.0.0.1:7070"

func loginFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fault.New(fault.Invalid, "there is no folder to keep the login in: %w", err)
	}
	return filepath.Join(dir, "slipway", "login.json"), nil
}

// open returns a client.
func (c *connection) open() (*client.Client, error) {
	var kept login
	if file, err := loginFile(); err == nil {
		if data, err := os.ReadFile(file); err == nil {
			if err := json.Unmarshal(data, &kept); err != nil {
				return nil, fault.New(fault.Invalid, "%s is not what slipway login writes: %w; remove it and log in again", file, err)
			}
		}
	}
	at := &client.Client{URL: first(c.server, os.Getenv("SLIPWAY_SERVER"), kept.Server, defaultServer)}
	at.Token = first(c.token, os.Getenv("SLIPWAY_TOKEN"))
	if at.Token == "" && at.URL == kept.Server {
		at.Token = kept.Token
	}
	if at.Token == "" && at.URL == defaultServer {
		if text, err := os.ReadFile(filepath.Join(defaultData, "admin-token")); err == nil {
			at.Token = strings.TrimSpace(string(text))
		}
	}
	return at, check(at)
}

// register adds the flags that say which server is meant.
func (c *connection) register(flags *pflag.FlagSet) {
	flags.StringVar(&c.server, "server", "", "root of the server (default $SLIPWAY_SERVER, then the login, then "+defaultServer+")")
	flags.StringVar(&c.token, "token", "", "token (default $SLIPWAY_TOKEN, then the login)")
}

// check finds what is wrong with a connection before anything is sent.
func check(at *client.Client) error {
	if u, err := url.Parse(at.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fault.New(fault.Invalid, "the server %q is no URL such as https://slipway.example.com; correct --server, SLIPWAY_SERVER or the login", at.URL)
	}
	if strings.ContainsFunc(at.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fault.New(fault.Invalid, "the token has characters that no token has; give it in one line, by --token, SLIPWAY_TOKEN or slipway login")
	}
	return nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// newClientCommands are the verbs that speak to a server.
func newClientCommands() []*cobra.Command {
	c := &connection{}
	commands := []*cobra.Command{newRepoCommand(c), newSecretCommand(c), newRunCommand(c), newReleaseCommand(c), newTokenCommand(c), newRegistryCommand(c), newEnvCommand(c), newPromoteCommand(c), newLoginCommand(c)}
	for _, cmd := range commands {
		c.register(cmd.PersistentFlags())
		cmd.PersistentFlags().BoolVar(&c.json, "json", false, "print JSON")
	}
	return commands
}

func newLoginCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "login URL",
		Short: "Keep a server and a token, read from standard input, for the other verbs",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 4<<10))
			if err != nil {
				return err
			}
			token := first(c.token, strings.TrimSpace(string(text)))
			if token == "" {
				return fault.New(fault.Invalid, "give the token on standard input")
			}
			at := &client.Client{URL: strings.TrimSuffix(args[0], "/"), Token: token}
			if err := check(at); err != nil {
				return err
			}
			if _, err := at.Repos(cmd.Context()); err != nil {
				return err
			}
			file, err := loginFile()
			if err != nil {
				return err
			}
			data, err := json.MarshalIndent(login{at.URL, at.Token}, "", "  ")
			if err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, data, 0o600))
			}
			return err
		},
	}
}

// printJSON prints what an API call answered, for programs.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
