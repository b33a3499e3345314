// Package yaml reads YAML 1.1 as pipeline files are written in it, and keeps the place of everything.
//
// [Split] cuts a file into documents. [Parse] turns one into a tree of [Node], in which aliases and merge keys are
// resolved and every node knows its line and column. The tree is bounded: a file of a few lines cannot unfold into one
// that exhausts the machine. [Node.Value] types scalars as YAML 1.1 does, where yes is true and 0755 is 493; [Node.Text] is
// what was written.
package yaml
