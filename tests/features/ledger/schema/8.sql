-- sqlite
CREATE TABLE access_limits ( id BIGINT NOT NULL, body TEXT DEFAULT '{}' NOT NULL, PRIMARY KEY (id) )
-- postgresql
CREATE OR REPLACE FUNCTION salver_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'rows of % are kept as they are', TG_TABLE_NAME; END $$
CREATE TABLE access_limits ( id BIGSERIAL NOT NULL, body TEXT DEFAULT '{}' NOT NULL, PRIMARY KEY (id) )
