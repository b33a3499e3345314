package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/layout"
	"slipway/internal/remote"
)

func newExportCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "export REPOSITORY FILE.tar|DIR|-",
		Short: "Write all tags of a repository, with what is about them, as an OCI image layout",
		Long: `Write a repository as an OCI image layout: all that its tags name, the images of indexes, and signatures and the
like of any of them. The target is a tar if its name ends with .tar, standard output (as a tar) if it is -, and
otherwise a folder, which must be empty or not there. Other programs read it as well:

    slipway registry export octo/app app
    skopeo copy oci:app:1.0 docker://registry.example.com/octo/app:1.0`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, repository, err := c.registry(args[0])
			if err != nil {
				return err
			}
			defer client.Close()
			count, err := export(cmd.Context(), client, repository, args[1], cmd.OutOrStdout())
			if err != nil {
				return layoutFault(err)
			}
			return c.printCount(cmd.ErrOrStderr(), cmd.OutOrStdout(), "exported", args[1], count)
		},
	}
}

func newImportCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "import REPOSITORY FILE.tar|DIR",
		Short: "Push all that is in an OCI image layout",
		Long: `Push all images of an OCI image layout, a folder or a tar without compression, into a repository. Images that its
index names (org.opencontainers.image.ref.name) become tags, in place of those of the same name. What is there already
is not sent again. Every byte is held against its digest; links and names that lead out of the layout are refused.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, repository, err := c.registry(args[0])
			if err != nil {
				return err
			}
			defer client.Close()
			count, err := importLayout(cmd.Context(), client, repository, args[1])
			if err != nil {
				return layoutFault(err)
			}
			return c.printCount(cmd.ErrOrStderr(), cmd.OutOrStdout(), "imported", args[1], count)
		},
	}
}

// printCount says what was carried: as a line for people, who may have sent a tar to standard output, or as JSON.
func (c *connection) printCount(people, programs io.Writer, did, where string, n layout.Count) error {
	if c.json && where != "-" {
		return printJSON(programs, map[string]any{"tags": n.Tags, "manifests": n.Manifests, "blobs": n.Blobs, "bytes": n.Bytes})
	}
	_, err := fmt.Fprintf(people, "%s %d tags, %d manifests and %d blobs, %d bytes\n", did, n.Tags, n.Manifests, n.Blobs, n.Bytes)
	return err
}

// registry returns a client of the server's registry, and the repository in it.
func (c *connection) registry(name string) (*remote.Client, remote.Repository, error) {
	at, err := c.open()
	if err != nil {
		return nil, remote.Repository{}, err
	}
	server, err := url.Parse(at.URL)
	if err != nil {
		return nil, remote.Repository{}, err
	}
	name = ci.ImageName(name)
	// It is checked here because it becomes a part of an address.
	parsed, err := remote.ParseRepository("localhost/" + name)
	if err != nil || parsed.Name != name {
		return nil, remote.Repository{}, fault.New(fault.Invalid, "%q is not the name of a repository, such as octo/app", name)
	}
	options := remote.Options{
		// The end of a large upload is a sync to the server's disk.
		AnswerTimeout: 10 * time.Minute,
		Login:         func(string) (string, string, error) { return "slipway", at.Token, nil },
	}
	if at.Token == "" {
		options.Login = nil
	}
	if server.Scheme == "http" {
		options.Insecure = []string{server.Host}
	}
	return remote.New(options), remote.Repository{Host: server.Host, Name: name}, nil
}

// layoutFault says of what kind an error is: the registry's, or else the layout's.
func layoutFault(err error) error {
	var answer *remote.Error
	var known *fault.Error
	switch {
	case errors.As(err, &known):
		return err
	case !errors.As(err, &answer):
		return fault.New(fault.Failed, "%w", err)
	case answer.Status == http.StatusUnauthorized:
		return fault.New(fault.Unauthorized, "%w; give a token that may do it by --token, SLIPWAY_TOKEN or slipway login", err)
	}
	return fault.New(fault.FromHTTPStatus(answer.Status), "%w", err)
}

// export writes the repository to the target. A file has its name only when it is whole; what is left of a folder after an
// error has no index, and is no layout.
func export(ctx context.Context, client *remote.Client, repository remote.Repository, target string, stdout io.Writer) (count layout.Count, err error) {
	write := func(w io.Writer) error {
		t := layout.NewTar(w)
		if count, err = layout.Export(ctx, client, repository, t); err != nil {
			return err
		}
		return t.Close()
	}
	switch {
	case target == "-":
		return count, write(stdout)
	case !strings.HasSuffix(target, ".tar"):
		dir, err := layout.CreateDir(target)
		if err != nil {
			return count, err
		}
		defer dir.Close()
		return layout.Export(ctx, client, repository, dir)
	}
	if _, err := os.Lstat(target); err == nil {
		return count, fault.New(fault.Conflict, "%s is there already", target)
	}
	part := target + ".part"
	file, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return count, err
	}
	err = errors.Join(write(file), file.Close())
	if err == nil {
		err = os.Rename(part, target)
	}
	if err != nil {
		_ = os.Remove(part) // the next export writes it anew
	}
	return count, err
}

// importLayout pushes the layout at a path.
func importLayout(ctx context.Context, client *remote.Client, repository remote.Repository, path string) (layout.Count, error) {
	info, err := os.Stat(path)
	if err != nil {
		return layout.Count{}, err
	}
	if info.IsDir() {
		dir, err := layout.OpenDir(path)
		if err != nil {
			return layout.Count{}, err
		}
		defer dir.Close()
		return layout.Import(ctx, client, repository, dir)
	}
	if !info.Mode().IsRegular() {
		return layout.Count{}, fmt.Errorf("%s is neither a file nor a folder", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return layout.Count{}, err
	}
	defer file.Close()
	tar, err := layout.OpenTar(file, info.Size())
	if err != nil {
		return layout.Count{}, err
	}
	return layout.Import(ctx, client, repository, tar)
}
