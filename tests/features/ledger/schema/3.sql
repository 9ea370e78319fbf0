-- sqlite
CREATE TABLE part ( release TEXT NOT NULL, server TEXT NOT NULL, number BIGINT NOT NULL, body TEXT DEFAULT '{}' NOT NULL, PRIMARY KEY (release, server, number), FOREIGN KEY(release) REFERENCES release (id) )
CREATE TABLE witness ( release TEXT NOT NULL, server TEXT NOT NULL, parts BIGINT NOT NULL, until DOUBLE NOT NULL, has_left INTEGER DEFAULT '0' NOT NULL, PRIMARY KEY (release, server), FOREIGN KEY(release) REFERENCES release (id) )
-- postgresql
CREATE OR REPLACE FUNCTION salver_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'rows of % are kept as they are', TG_TABLE_NAME; END $$
CREATE TABLE part ( release TEXT NOT NULL, server TEXT NOT NULL, number BIGINT NOT NULL, body TEXT DEFAULT '{}' NOT NULL, PRIMARY KEY (release, server, number), FOREIGN KEY(release) REFERENCES release (id) )
CREATE TABLE witness ( release TEXT NOT NULL, server TEXT NOT NULL, parts BIGINT NOT NULL, until DOUBLE PRECISION NOT NULL, has_left INTEGER DEFAULT '0' NOT NULL, PRIMARY KEY (release, server), FOREIGN KEY(release) REFERENCES release (id) )
