// Package gitea is the [forge.Forge] for Gitea and Forgejo.
//
// Their APIs are spoken through Gitea's own client library, their webhooks are read here. Start with [New]; what becomes
// an event is in hook.go. Package giteatest starts a real Gitea for tests.
package gitea
