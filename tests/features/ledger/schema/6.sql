-- sqlite
CREATE TABLE access_change ( id BIGINT NOT NULL, number BIGINT NOT NULL, PRIMARY KEY (id) )
CREATE TABLE access_key ( id TEXT NOT NULL, name TEXT NOT NULL, hash TEXT NOT NULL, body TEXT DEFAULT '{}' NOT NULL, "by" TEXT NOT NULL, last_use DOUBLE, PRIMARY KEY (id) )
CREATE UNIQUE INDEX access_key_hash ON access_key (hash)
CREATE INDEX access_key_name ON access_key (name)
-- postgresql
CREATE OR REPLACE FUNCTION salver_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'rows of % are kept as they are', TG_TABLE_NAME; END $$
CREATE TABLE access_change ( id BIGSERIAL NOT NULL, number BIGINT NOT NULL, PRIMARY KEY (id) )
CREATE TABLE access_key ( id TEXT NOT NULL, name TEXT NOT NULL, hash TEXT NOT NULL, body TEXT DEFAULT '{}' NOT NULL, by TEXT NOT NULL, last_use DOUBLE PRECISION, PRIMARY KEY (id) )
CREATE UNIQUE INDEX access_key_hash ON access_key (hash)
CREATE INDEX access_key_name ON access_key (name)
